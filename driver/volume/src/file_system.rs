//! A file system on a volume, made once, and over nobody's data.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::program::{flush_device, must};

const PROGRAM: &str = "mkfs.ext4";
const MEBIBYTE: u64 = 1 << 20;
/// Bytes at either end that are read: labels of file systems, partition tables, RAID, LVM and encryption are within.
const ENDS: u64 = 16 * MEBIBYTE;
/// Between them one piece of each stretch of this length is read.
const STRETCH: u64 = 64 * MEBIBYTE;
const PIECE: u64 = MEBIBYTE;

/// What a volume begins with while a file system is made on it: 64 bytes, and the magic number of a BSD disk label, for which
/// mke2fs leaves this sector as it is (`zap_sector` in its `mke2fs.c`). ext4 has nothing there.
const MARK: &[u8] = b"zun-kata: a file system is being made here                     \n\x57\x45\x56\x82";
const SECTOR: usize = 512;

/// What there is on a volume.
#[derive(Debug, PartialEq)]
enum Content {
    /// It is zeros at both ends, and wherever it is looked at in between.
    Nothing,
    /// Making a file system was cut short: nobody has written to it.
    Unfinished,
    /// Somebody's data.
    Data,
}

/// Makes an ext4 file system on a volume to which nothing has been written. Idempotent: whatever is on the volume is kept.
pub async fn ensure_file_system(path: &Path) -> Result<()> {
    match blocking("read", path, look).await? {
        Content::Data => Ok(()),
        Content::Nothing | Content::Unfinished => {
            begin(path).await?;
            make(path).await?;
            end(path).await
        }
    }
}

fn look(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    Read::by_ref(&mut file).take(MARK.len() as u64).read_to_end(&mut first)?;
    if first == MARK {
        return Ok(Content::Unfinished);
    }
    let size = file.seek(SeekFrom::End(0))?;
    for (start, end) in stretches(size) {
        if !is_zero(&mut file, start, end)? {
            return Ok(Content::Data);
        }
    }
    Ok(Content::Nothing)
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

async fn begin(path: &Path) -> Result<()> {
    blocking("mark", path, |path| write_first_sector(path, MARK)).await
}

async fn make(path: &Path) -> Result<()> {
    // A discard would erase the mark.
    let options = ["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"];
    let arguments: Vec<_> = options.iter().map(Path::new).chain([path]).collect();
    must(PROGRAM, "make a file system", &arguments, &[]).await?;
    flush_device(path.to_owned()).await
}

async fn end(path: &Path) -> Result<()> {
    blocking("mark", path, |path| write_first_sector(path, &[])).await
}

/// A device writes a sector whole or not at all.
fn write_first_sector(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut sector = [0; SECTOR];
    sector[..text.len()].copy_from_slice(text);
    let mut file = File::options().write(true).open(path)?;
    file.write_all(&sector)?;
    file.sync_all()
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let path = path.to_owned();
    let worked = tokio::task::spawn_blocking(move || work(&path).map_err(Error::io(what, path)));
    worked.await.map_err(|e| Error::Io { what, path: PathBuf::new(), source: io::Error::other(e) })?
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::NamedTempFile;

    use super::*;

    const GIBIBYTE: u64 = 1 << 30;

    fn volume(size: u64) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn blank_after(size: u64, written: &[u64]) -> bool {
        let mut file = volume(size);
        for at in written {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(b"x").unwrap();
        }
        look(file.path()).unwrap() == Content::Nothing
    }

    #[test]
    fn a_volume_is_blank_until_something_is_written() {
        for size in [0, 4096, 32 * MEBIBYTE, GIBIBYTE, GIBIBYTE + 512] {
            assert!(blank_after(size, &[]), "{size}");
            if size > 0 {
                for at in [0, size / 2, size - 1].iter().filter(|at| **at < ENDS || size - **at <= ENDS) {
                    assert!(!blank_after(size, &[*at]), "{at} of {size}");
                }
            }
        }
        // Data without a label, all over it.
        let all: Vec<u64> = (20 * MEBIBYTE..GIBIBYTE - ENDS).step_by(MEBIBYTE as usize).collect();
        assert!(!blank_after(GIBIBYTE, &all));
    }

    fn assert_sound(file: &NamedTempFile) {
        assert_eq!(look(file.path()).unwrap(), Content::Data);
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(file.path()).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }

    #[tokio::test]
    async fn a_file_system_is_made_once() {
        let file = volume(64 * MEBIBYTE);
        ensure_file_system(file.path()).await.unwrap();
        assert_sound(&file);
        let before = std::fs::read(file.path()).unwrap();
        ensure_file_system(file.path()).await.unwrap();
        assert!(before == std::fs::read(file.path()).unwrap());
        let missing = ensure_file_system(Path::new("/nonexistent/volume")).await.unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/volume"), "{missing}");
    }

    #[tokio::test]
    async fn what_was_cut_short_is_made_again() {
        // Before, in, and after the making; in it some of what it writes is there already.
        for cut in 0..3 {
            let mut file = volume(64 * MEBIBYTE);
            begin(file.path()).await.unwrap();
            if cut == 1 {
                for at in (MEBIBYTE..64 * MEBIBYTE).step_by(MEBIBYTE as usize) {
                    file.seek(SeekFrom::Start(at)).unwrap();
                    file.write_all(&[0xa5; 4096]).unwrap();
                }
            }
            if cut == 2 {
                make(file.path()).await.unwrap();
            }
            assert_eq!(look(file.path()).unwrap(), Content::Unfinished, "{cut}");
            ensure_file_system(file.path()).await.unwrap();
            assert_sound(&file);
        }
    }

    #[tokio::test]
    async fn what_failed_is_made_again() {
        let file = volume(4096);
        let failed = ensure_file_system(file.path()).await.unwrap_err().to_string();
        assert!(failed.starts_with("mkfs.ext4, to make a file system: "), "{failed}");
        file.as_file().set_len(64 * MEBIBYTE).unwrap();
        ensure_file_system(file.path()).await.unwrap();
        assert_sound(&file);
    }
}
