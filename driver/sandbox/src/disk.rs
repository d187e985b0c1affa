//! The writable disk of a container: a sparse ext4 image whose size is the quota.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::error::{Error, Result};

const PROGRAM: &str = "mkfs.ext4";

/// Makes a disk of `gibibytes` at `path`; if that fails, nothing is left.
pub async fn create(path: &Path, gibibytes: u64) -> Result<()> {
    let made = make(path, gibibytes).await;
    if made.is_err() {
        // The file may not be there at all.
        let _ = std::fs::remove_file(path);
    }
    made
}

async fn make(path: &Path, gibibytes: u64) -> Result<()> {
    let bytes =
        gibibytes.checked_mul(1 << 30).ok_or_else(|| Error::Disk(format!("{gibibytes} GiB do not fit")))?;
    File::create_new(path).and_then(|file| file.set_len(bytes)).map_err(Error::io("make", path))?;
    // Inode tables are left to the guest's kernel: the image stays sparse, and is made in no time.
    let output = Command::new(PROGRAM)
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
            "-J",
            "size=16",
        ])
        .arg(path)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Error::Disk(format!("{PROGRAM} cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Disk(format!(
        "{PROGRAM}: {}",
        String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
    )))
}
