//! Volumes of containers: files that their users hand over, and Cinder's.

mod cinder;
mod requested;

pub use cinder::{OwnedVolume, Volumes, containers_of};
pub use requested::{files_of, inject_files, mounts_of};
