use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use process::{Output, Program};

use crate::error::{Error, Result};

/// Longer than open-iscsi tries to log in, and than storage that does not answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(150);

/// Runs a program to its end, whatever its exit status.
pub async fn run(program: &'static str, arguments: &[impl AsRef<OsStr>]) -> Result<Output> {
    Ok(Program::new(program, TIMEOUT).output(arguments).await?)
}

/// Runs a program that must succeed, or end with one of the statuses that mean there is nothing to do.
pub async fn must(
    program: &'static str,
    purpose: &str,
    arguments: &[impl AsRef<OsStr>],
    good: &[i32],
) -> Result<()> {
    let output = run(program, arguments).await?;
    let status = output.status();
    if status.success() || status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    Err(Error::Failed { program, purpose: purpose.to_owned(), message: output.failure() })
}

/// Writes what the kernel holds of a device or a file to its storage. A process of its own does it, which can be killed where the
/// storage does not answer: a blocked thread of this one would keep the volume busy.
pub async fn flush_device(device: PathBuf) -> Result<()> {
    let flushed = must("sync", "write what the kernel holds", &[&device], &[]).await;
    flushed.map_err(|reason| Error::Flush { device, reason: Box::new(reason) })
}
