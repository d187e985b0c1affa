//! What takes long in the cloud, and few changes can break.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allocations;
mod clock;
mod deaf;
mod faults;
mod model;
mod traffic;
mod two_hosts;
