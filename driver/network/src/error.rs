/// Why a port could not be plugged or unplugged.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("port {port} cannot be plugged: its binding failed, no network agent of host {host} takes it")]
    BindingFailed { port: String, host: String },
    #[error("port {port} cannot be plugged: binding type {vif_type:?} is not supported")]
    VifType { port: String, vif_type: String },
    #[error("port {port} cannot be plugged: {reason}")]
    Details { port: String, reason: String },
    #[error(
        "port {port} cannot be plugged: {device} is the device of port {other}, whose identifier begins alike"
    )]
    Taken { port: String, device: String, other: String },
    #[error("the links of this host cannot be listed: {0}")]
    Links(std::io::Error),
    #[error("{program} printed something else than expected: {source}")]
    Output { program: &'static str, source: serde_json::Error },
    #[error(transparent)]
    Program(#[from] process::Error),
    #[error("{program} {arguments}: {message}")]
    Failed { program: &'static str, arguments: String, message: String },
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
