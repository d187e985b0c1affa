use std::io;
use std::path::PathBuf;

/// What the agent could not do, and to what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("cannot mount {source_name} on {}: {source}", target.display())]
    Mount { source_name: String, target: PathBuf, source: nix::Error },
    #[error("there is no container {0}")]
    NoContainer(String),
    #[error("container {0} exists already")]
    ContainerExists(String),
    #[error("container {container} has no process {exec}")]
    NoProcess { container: String, exec: String },
    #[error("process {0} exists already")]
    ProcessExists(String),
    #[error("{0} is not a valid identifier")]
    Identifier(String),
    #[error("{}: {reason}", path.display())]
    Path { path: PathBuf, reason: String },
    #[error("unable to find {kind} {name}: no matching entries in {kind} file")]
    Account { kind: &'static str, name: String },
    #[error("storage driver {0:?} is not supported")]
    StorageDriver(String),
    #[error("{0:?} is not a format of a list of processes")]
    Format(String),
    #[error("there is no interface with address {0}")]
    NoInterface(String),
    #[error("{0:?} is not an address")]
    Address(String),
    #[error("cannot {what}: {source}")]
    Netlink { what: String, source: Box<rtnetlink::Error> },
    #[error("{0}")]
    Runtime(String),
    #[error("the program cannot be run: {0}")]
    Program(String),
    #[error(transparent)]
    Spec(#[from] agent_protocol::SpecError),
    #[error("the process has no {0}")]
    NoStream(&'static str),
    #[error("the service ended: {0}")]
    Service(#[from] ttrpc::Error),
}

/// The result of the agent's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: an I/O error while doing `what`.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }

    fn code(&self) -> ttrpc::Code {
        match self {
            Self::NoContainer(_) | Self::NoProcess { .. } | Self::NoInterface(_) => ttrpc::Code::NOT_FOUND,
            Self::ContainerExists(_) | Self::ProcessExists(_) => ttrpc::Code::ALREADY_EXISTS,
            Self::Identifier(_)
            | Self::Path { .. }
            | Self::Account { .. }
            | Self::StorageDriver(_)
            | Self::Address(_)
            | Self::Format(_)
            | Self::Spec(_) => ttrpc::Code::INVALID_ARGUMENT,
            Self::Program(_) => ttrpc::Code::FAILED_PRECONDITION,
            _ => ttrpc::Code::INTERNAL,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}
