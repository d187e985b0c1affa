use std::io;

/// An error of the shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the guest took memory only up to {has} of {wanted} MiB")]
    MemoryNotTaken { has: u64, wanted: u64 },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Confinement(#[from] confinement::Error),
    #[error(transparent)]
    Machine(#[from] vmm::Error),
    #[error(transparent)]
    Spec(#[from] agent_protocol::SpecError),
    #[error("{}", agent_message(.0))]
    Agent(#[from] ttrpc::Error),
    #[error("the agent's list of processes makes no sense: {0}")]
    Processes(#[source] serde_json::Error),
    #[error("what the agent says of the archive makes no sense: {0}")]
    Stat(#[source] serde_json::Error),
    #[error("the guest's agent did not answer within {0} s")]
    AgentTimeout(u64),
    #[error("{0}")]
    GuestEnded(String),
    #[error("the sandbox is paused")]
    Paused,
    #[error("the machine's slots: {0}")]
    Slot(String),
    #[error("the request came without its file")]
    NoFile,
    #[error("the guest is not ready")]
    NotReady,
    #[error("the machine's thread panicked")]
    Lost,
    #[error("there is no container {0}")]
    NoContainer(String),
}

/// The result of the shim's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: an I/O error of the operation `what`.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }
}

/// The agent's message, without ttrpc's prefix.
fn agent_message(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message().to_owned(),
        other => format!("the guest's agent cannot be reached: {other}"),
    }
}
