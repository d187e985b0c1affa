//! Whether something has been written to a volume, and making a file system where nothing has.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::program::must;

const PROGRAM: &str = "mkfs.ext4";
const MEBIBYTE: u64 = 1 << 20;
/// Bytes at either end that are read: labels of file systems, partition tables, RAID, LVM and encryption are within.
const ENDS: u64 = 16 * MEBIBYTE;
/// Between them one piece of each stretch of this length is read.
const STRETCH: u64 = 64 * MEBIBYTE;
const PIECE: u64 = MEBIBYTE;
/// Longer than storage that does not answer is waited for.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(150);

/// Whether a volume has never been written to: it is zeros at both ends, and wherever it is looked at in between.
pub async fn is_blank(path: &Path) -> Result<bool> {
    let path = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || look(&path).map_err(Error::io("read", path)));
    looked.await.map_err(|e| Error::Io { what: "read", path: PathBuf::new(), source: io::Error::other(e) })?
}

fn look(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    for (start, end) in stretches(size) {
        if !is_zero(&mut file, start, end)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is read of a volume of `size` bytes.
fn stretches(size: u64) -> Vec<(u64, u64)> {
    if size <= 2 * ENDS {
        return vec![(0, size)];
    }
    let last = size - ENDS;
    let pieces = (ENDS..last).step_by(STRETCH as usize).map(|start| (start, (start + PIECE).min(last)));
    [(0, ENDS), (last, size)].into_iter().chain(pieces).collect()
}

fn is_zero(file: &mut File, start: u64, end: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(start))?;
    let mut rest = file.take(end - start);
    let mut buffer = vec![0; PIECE as usize];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(true),
            count if buffer[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// Makes an ext4 file system on a volume, whatever is on it.
pub async fn format(path: &Path) -> Result<()> {
    let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
    let arguments: Vec<_> = options.iter().map(Path::new).chain([path]).collect();
    must(PROGRAM, "make a file system", &arguments, &[]).await
}

/// Writes what the kernel holds of a device or a file.
pub async fn flush_device(device: PathBuf) -> Result<()> {
    let path = device.clone();
    let flushed = tokio::task::spawn_blocking(move || File::open(path)?.sync_all());
    let flushed = match timeout(FLUSH_TIMEOUT, flushed).await {
        Ok(ended) => ended.unwrap_or_else(|e| Err(io::Error::other(e))),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    flushed.map_err(|source| Error::Flush { device, source })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn blank_after(size: u64, written: &[u64]) -> bool {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        for at in written {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(b"x").unwrap();
        }
        is_blank(file.path()).await.unwrap()
    }

    #[tokio::test]
    async fn a_volume_is_blank_until_something_is_written() {
        const GIBIBYTE: u64 = 1 << 30;
        for size in [0, 4096, 32 * MEBIBYTE, GIBIBYTE, GIBIBYTE + 512] {
            assert!(blank_after(size, &[]).await, "{size}");
            if size > 0 {
                for at in [0, size / 2, size - 1].iter().filter(|at| **at < ENDS || size - **at <= ENDS) {
                    assert!(!blank_after(size, &[*at]).await, "{at} of {size}");
                }
            }
        }
        // Data without a label, all over it.
        let all: Vec<u64> = (20 * MEBIBYTE..GIBIBYTE - ENDS).step_by(MEBIBYTE as usize).collect();
        assert!(!blank_after(GIBIBYTE, &all).await);
    }

    #[tokio::test]
    async fn a_formatted_volume_is_blank_no_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * MEBIBYTE).unwrap();
        assert!(is_blank(file.path()).await.unwrap());
        format(file.path()).await.unwrap();
        assert!(!is_blank(file.path()).await.unwrap());
        let missing = format(Path::new("/nonexistent/volume")).await.unwrap_err().to_string();
        assert!(missing.starts_with("mkfs.ext4, to make a file system: "), "{missing}");
    }
}
