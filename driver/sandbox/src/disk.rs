//! The writable disk of a container: a sparse ext4 image whose size is the quota.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use process::Program;

use crate::error::{Error, Result};

const MKFS: Program = Program::new("mkfs.ext4", Duration::from_secs(120));

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
    let arguments =
        ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16"];
    let arguments = arguments.map(OsStr::new).into_iter().chain([path.as_os_str()]);
    MKFS.run(arguments).await.map(drop).map_err(|e| Error::Disk(e.to_string()))
}
