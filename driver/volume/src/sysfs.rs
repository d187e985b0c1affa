use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Longest that the kernel may take for a write: it may ask a device first, which does not answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The paths in a folder. Empty for a folder that is absent or vanishes in the meantime.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        read => read?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Writes to a file of sysfs, on a thread of its own.
pub async fn write(path: &Path, text: String) -> io::Result<()> {
    let path = path.to_owned();
    let written = timeout(WRITE_TIMEOUT, spawn_blocking(move || fs::write(path, text))).await;
    let late = format!("the device did not answer within {} s", WRITE_TIMEOUT.as_secs());
    written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, late))?.map_err(io::Error::other)?
}
