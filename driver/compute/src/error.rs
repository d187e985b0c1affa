use model::ContainerUuid;
use oslo::RemoteError;
use uuid::Uuid;

use crate::options::ConfigError;
use crate::turns::Full;

const ZUN_EXCEPTIONS: &str = "zun.common.exception";

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Database(#[from] model::Error),
    #[error(transparent)]
    Decode(#[from] model::DecodeError),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error(transparent)]
    Cloud(#[from] cloud::Error),
    #[error(transparent)]
    Plug(#[from] network::Error),
    #[error(transparent)]
    Connect(volume::Error),
    #[error("volume {volume}: {source}")]
    Volume { volume: Uuid, source: Box<Error> },
    #[error("{0} is not supported by zun-kata-compute")]
    NotSupported(String),
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("Cannot operate an uncreated container.")]
    NotCreated,
    #[error("{0}")]
    Conflict(String),
    #[error("the guest did not take the container's files in time")]
    FilesNotTaken,
    #[error("the service ended before this was done")]
    Interrupted,
    #[error("port {0} is gone")]
    PortGone(String),
    #[error(transparent)]
    Busy(#[from] Full),
    #[error("project {project} has too many {what} under way")]
    TooMany { project: String, what: &'static str },
    #[error("no such exec instance: {0}")]
    NoExec(String),
    #[error("the sandbox of container {0} does not answer")]
    Unanswered(ContainerUuid),
    #[error("No such container: {0} on this host")]
    Lost(ContainerUuid),
    #[error("{subject} was given up: its container is to be killed or deleted")]
    GivenUp { subject: &'static str },
    #[error("init container {id} {reason}")]
    InitFailed { id: String, reason: String },
    #[error("init container {0} has not ended within an hour")]
    InitTimeout(String),
    #[error("Cannot {action} container {container} in {status} state")]
    State { action: &'static str, container: ContainerUuid, status: model::Status },
    #[error("Insufficient compute resources: {0}.")]
    Resources(String),
    #[error("there is no sandbox {0}")]
    NoSandbox(String),
    #[error("sandbox {0} is no orphan: {1}")]
    NoOrphan(Uuid, &'static str),
    #[error("{0} has not answered in time")]
    NoAnswer(&'static str),
    #[error("{0}")]
    Network(String),
    #[error("network {0} could not be found")]
    NoNetwork(String),
    #[error("an answer cannot be written: {0}")]
    Answer(#[source] serde_json::Error),
    #[error("standard output cannot be written: {0}")]
    Output(#[source] std::io::Error),
    #[error("the archive cannot be kept on this host: {0}")]
    Archive(#[source] std::io::Error),
    #[error("the sandboxes of this host cannot be listed: {0}")]
    Sandboxes(#[source] std::io::Error),
    #[error("{path} cannot be {what}: {source}")]
    Kept { path: String, what: &'static str, source: std::io::Error },
    #[error("the sandbox has no container {0}")]
    NoMember(String),
}

/// The result of this service's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl From<volume::Error> for Error {
    fn from(error: volume::Error) -> Self {
        match error {
            volume::Error::Protocol(_) | volume::Error::Feature(_) => Self::NotSupported(error.to_string()),
            error => Self::Connect(error),
        }
    }
}

impl Error {
    /// What a request, an image or a row says and nobody can do.
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    /// An answer that cannot be written.
    pub fn from_json(source: serde_json::Error) -> Self {
        Self::Answer(source)
    }

    /// The same, with the volume that it is about.
    pub fn of_volume(self, volume: Uuid) -> Self {
        Self::Volume { volume, source: Box::new(self) }
    }

    /// Zun's exception for it, and the HTTP status that the API makes of that.
    fn exception(&self) -> (&'static str, u16) {
        match self {
            Self::Image(image::Error::NotFound(_) | image::Error::NotPresent(_)) => ("ImageNotFound", 400),
            Self::Image(image::Error::Invalid { .. } | image::Error::Platform(_)) => ("Invalid", 400),
            Self::Image(image::Error::Search(_)) | Self::NotSupported(_) => ("OperationNotSupported", 500),
            Self::Sandbox(e) => sandbox_exception(e),
            Self::Volume { source, .. } => source.exception(),
            Self::Invalid { .. } | Self::NotCreated | Self::NoExec(_) | Self::Decode(_) => ("Invalid", 400),
            Self::Database(model::Error::NoContainer(_)) => ("ContainerNotFound", 404),
            Self::Conflict(_)
            | Self::Busy(_)
            | Self::TooMany { .. }
            | Self::GivenUp { .. }
            | Self::Unanswered(_) => ("Conflict", 409),
            Self::NoNetwork(_) => ("NetworkNotFound", 404),
            Self::Lost(_) => ("ContainerNotFound", 404),
            Self::Resources(_) => ("ResourcesUnavailable", 500),
            Self::State { .. } => ("InvalidStateException", 409),
            _ => ("ZunException", 500),
        }
    }
}

/// What was asked of a sandbox that none can give is the caller's affair: the API shows it the words.
fn sandbox_exception(error: &sandbox::Error) -> (&'static str, u16) {
    match error {
        sandbox::Error::Memory { .. }
        | sandbox::Error::Cpus { .. }
        | sandbox::Error::Nics { .. }
        | sandbox::Error::Volumes { .. } => ("Invalid", 400),
        sandbox::Error::Archive(_) => ("Invalid", 400),
        sandbox::Error::Growth(_) => ("Conflict", 409),
        _ => ("ZunException", 500),
    }
}

impl From<Error> for RemoteError {
    fn from(error: Error) -> Self {
        let (class, code) = error.exception();
        let mut remote = Self::new(ZUN_EXCEPTIONS, class, error.to_string());
        remote.kwargs.insert("code".into(), code.into());
        remote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_zuns_own() {
        let remote = RemoteError::from(Error::NotSupported("container_pause".into()));
        assert_eq!(
            (remote.class.as_str(), remote.module.as_str()),
            ("OperationNotSupported", ZUN_EXCEPTIONS)
        );
        assert_eq!(remote.message, "container_pause is not supported by zun-kata-compute");
        let remote = RemoteError::from(Error::Sandbox(sandbox::Error::Growth("64 CPUs".into())));
        assert_eq!((remote.class.as_str(), remote.kwargs["code"].as_u64()), ("Conflict", Some(409)));
        let remote = RemoteError::from(Error::Image(image::Error::NotFound("x".into())));
        assert_eq!((remote.class.as_str(), remote.kwargs["code"].as_u64()), ("ImageNotFound", Some(400)));
    }
}
