use std::io;
use std::path::PathBuf;

/// An error while a machine was built or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("cannot {what}: {source}")]
    Kvm { what: &'static str, source: kvm_ioctls::Error },
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("cannot open {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("guest memory of {mebibytes} MiB cannot be had: {reason}")]
    Memory { mebibytes: u64, reason: String },
    #[error("{} is not a kernel that can be booted: {reason}", path.display())]
    Kernel { path: PathBuf, reason: String },
    #[error("guest memory access failed: {0}")]
    GuestMemory(#[from] vm_memory::GuestMemoryError),
    #[error("cannot {what} vhost-net: {source}")]
    Vhost { what: &'static str, source: vhost::Error },
    #[error("a virtio queue is broken: {0}")]
    Queue(virtio_queue::Error),
    #[error("the configuration is not valid: {0}")]
    Config(String),
    #[error("the guest's processors did not pause within {0} s")]
    Busy(u64),
    #[error("a slot cannot be changed: {0}")]
    Slot(String),
    #[error("the snapshot cannot be used: {0}")]
    Snapshot(String),
    #[error("KVM of this host cannot be used: {0}")]
    Unusable(String),
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    pub(crate) fn queue(source: virtio_queue::Error) -> Self {
        Self::Queue(source)
    }

    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { what, source }
    }
}
