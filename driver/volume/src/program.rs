use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::error::{Error, Result};

/// Longer than open-iscsi tries to log in, and than storage that does not answer is waited for.
pub const TIMEOUT: Duration = Duration::from_secs(150);

/// A program's end, whatever its exit status.
pub async fn run(program: &'static str, arguments: &[impl AsRef<OsStr>]) -> Result<Output> {
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(TIMEOUT, child)
        .await
        .map_err(|_| Error::Timeout { program })?
        .map_err(|source| Error::Start { program, source })
}

/// Runs a program that must succeed, or end with one of the statuses that mean there is nothing to do.
pub async fn must(
    program: &'static str,
    purpose: &str,
    arguments: &[impl AsRef<OsStr>],
    good: &[i32],
) -> Result<()> {
    let output = run(program, arguments).await?;
    if output.status.success() || output.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let message = if said.is_empty() { output.status.to_string() } else { said };
    Err(Error::Failed { program, purpose: purpose.to_owned(), message })
}

/// Writes what the kernel holds of a device or a file. A process of its own does it, which is ended where its storage does not
/// answer: this one would keep the volume busy ever after.
pub async fn flush_device(device: PathBuf) -> Result<()> {
    let flushed = must("sync", "write what the kernel holds", &[&device], &[]).await;
    flushed.map_err(|reason| Error::Flush { device, reason: Box::new(reason) })
}
