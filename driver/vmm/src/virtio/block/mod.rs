//! The block device (virtio 1.2 §5.2) on a raw file, with io_uring: the worker never blocks on the host's disk.

mod device;
mod request;
mod ring;
mod stalled;

pub use device::Block;
