use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(60);

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
    #[error("{program} cannot be run: {source}")]
    Start { program: &'static str, source: std::io::Error },
    #[error("{program} did not end within {} s", TIMEOUT.as_secs())]
    Timeout { program: &'static str },
    #[error("{program} {arguments}: {message}")]
    Failed { program: &'static str, arguments: String, message: String },
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs a program to its end and gives its output.
pub(crate) async fn run(program: &'static str, arguments: &[&str]) -> Result<String> {
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(TIMEOUT, child)
        .await
        .map_err(|_| Error::Timeout { program })?
        .map_err(|source| Error::Start { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Failed { program, arguments: arguments.join(" "), message })
}
