//! The whole road, from the `openstack` command to a process behind KVM and back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod adoption;
mod archives;
mod bad_input;
mod capsules;
mod commit;
mod contract;
mod deletion;
mod glance;
mod images;
mod life;
mod neighbours;
mod network;
mod operator;
mod policies;
mod recovery;
mod service;
mod stalled;
mod terminal;
mod usage;
mod volumes;
