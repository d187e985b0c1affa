use std::io;
use std::path::PathBuf;

use shim_control::ClientError;

/// What could not be done to a sandbox.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("memory of {asked} MiB is below the {least} MiB that a container in a sandbox needs")]
    Memory { asked: u64, least: u64 },
    #[error("{asked} CPUs are more than the {most} that a sandbox can have")]
    Cpus { asked: f32, most: u8 },
    #[error("the sandbox cannot grow to {0}")]
    Growth(String),
    #[error("{asked} network interfaces are more than the {most} that a sandbox can have")]
    Nics { asked: usize, most: u8 },
    #[error("{asked} volumes are more than the {most} that a sandbox can have")]
    Volumes { asked: usize, most: usize },
    #[error("{asked} containers are more than the {most} that a sandbox can have")]
    Containers { asked: u8, most: u8 },
    #[error("the controller {controller} cannot be used below {}: sandboxes would not be bounded", group.display())]
    Controller { controller: &'static str, group: PathBuf },
    #[error("this host has no cgroup v2: sandboxes would not be bounded")]
    NoCgroups,
    #[error("the sandbox has a container {0} already")]
    Exists(String),
    #[error("no user is left for another sandbox: all {count} are taken")]
    Users { count: u32 },
    #[error("the disk of the container cannot be made: {0}")]
    Disk(String),
    #[error("the sandbox did not start: {0}")]
    Start(String),
    #[error("the sandbox cannot be ended: {0}")]
    End(String),
    #[error("{0}")]
    Archive(String),
    #[error("the process took too long and was killed")]
    TimedOut,
    #[error(transparent)]
    Shim(ClientError),
    #[error("the container's specification cannot be made: {0}")]
    Spec(String),
    #[error("vCPU {0} cannot be pinned: {1}")]
    Pinning(usize, String),
    #[error("signal {0:?} is not known")]
    Signal(String),
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::TimedOut => Self::TimedOut,
            ClientError::Archive(reason) => Self::Archive(reason),
            error => Self::Shim(error),
        }
    }
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
