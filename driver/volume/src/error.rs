use std::io;
use std::path::PathBuf;

/// Why a volume could not be connected, disconnected or formatted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("a volume that is reached by {0:?}")]
    Protocol(String),
    #[error("{0}")]
    Feature(&'static str),
    #[error("what Cinder says of the volume's place: {0}")]
    Connection(String),
    #[error("this host has no iSCSI initiator's name in {}", .0.display())]
    NoInitiator(PathBuf),
    #[error(transparent)]
    Program(#[from] process::Error),
    #[error("{program}, to {purpose}: {message}")]
    Failed { program: &'static str, purpose: String, message: String },
    #[error("open-iscsi has no record of {target} in {folders}")]
    NoRecord { target: String, folders: String },
    #[error("{target} shows no device within {seconds} s")]
    NoDevice { target: String, seconds: u64 },
    #[error("{0} was mapped, and the kernel shows no device of it")]
    NotMapped(String),
    #[error("device {} does not go away within {seconds} s", .device.display())]
    Stays { device: PathBuf, seconds: u64 },
    #[error("the last writes to {} are lost: {reason}", .device.display())]
    Flush { device: PathBuf, reason: Box<Self> },
    #[error("{} has not been read to its end within {seconds} s: whether there are data on it is not known. It can be used once a file system is on it", .path.display())]
    NotRead { path: PathBuf, seconds: u64 },
    #[error("{} is no plain file", .0.display())]
    NoFile(PathBuf),
    #[error("{} is no block device", .0.display())]
    NoDisk(PathBuf),
    #[error("cannot {what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
