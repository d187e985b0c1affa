//! What takes long in the cloud, and few changes can break.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allocations;
mod faults;
mod model;
