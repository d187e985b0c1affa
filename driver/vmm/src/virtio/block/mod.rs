//! The block device (virtio 1.2 §5.2) on a raw file, with io_uring: the worker never blocks on the host's disk.

mod device;
mod disk;
mod patience;
mod request;
mod ring;
mod server;
mod stalled;

pub use device::Block;
pub use patience::Patience;
