//! Whatever a guest, an image or a snapshot says, who reads it neither panics nor hangs. `cargo test` tries each for a
//! second; for longer:
//!
//! ```sh
//! BOLERO_RANDOM_TEST_TIME_MS=600000 cargo test --release -p cloud-tests --test fuzz
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod devices;
mod layers;
mod messages;
mod network;
mod refilling;
mod snapshot;
