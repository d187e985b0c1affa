//! A file system on a volume, made once, and over nobody's data.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::blank::Reading;
use crate::error::{Error, Result};
use crate::program::{flush_device, must};

const PROGRAM: &str = "mkfs.ext4";
const MEBIBYTE: u64 = 1 << 20;
/// Bytes at either end within which labels are: of file systems, partition tables, RAID, LVM and encryption.
const ENDS: u64 = 16 * MEBIBYTE;
/// How long the ends of a volume may take to read.
const ENDS_LIMIT: Duration = Duration::from_secs(120);

/// What a volume begins with while a file system is made on it: 64 bytes, and the magic number of a BSD disk label, for which
/// mke2fs leaves this sector as it is (`zap_sector` in its `mke2fs.c`). ext4 has nothing there.
const MARK: &[u8] = b"zun-kata: a file system is being made here                     \n\x57\x45\x56\x82";
const SECTOR: usize = 512;

/// What a volume may hold by where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made for the container, to which nobody else has written: only a file system of its own, whose label is at its start.
    Made,
    /// Anybody's: all of it is read before a file system is made, for no longer than this.
    Given {
        /// How long it may take.
        limit: Duration,
    },
}

/// What there is on a volume.
#[derive(Debug, PartialEq)]
enum Content {
    /// Zeros.
    Nothing,
    /// Making a file system was cut short: nobody has written to it.
    Unfinished,
    /// Somebody's data.
    Data,
}

/// Makes an ext4 file system on a volume to which nothing has been written. Idempotent: whatever is on the volume is kept. A volume
/// that cannot be read to its end in time is left as it is, and is an error.
pub async fn ensure_file_system(path: &Path, origin: Origin) -> Result<()> {
    match look(path, origin).await? {
        Content::Data => Ok(()),
        Content::Nothing | Content::Unfinished => {
            begin(path).await?;
            make(path).await?;
            end(path).await
        }
    }
}

async fn look(path: &Path, origin: Origin) -> Result<Content> {
    let limit = match origin {
        Origin::Made => ENDS_LIMIT,
        Origin::Given { limit } => limit,
    };
    let (reading, _waiting) = Reading::new(limit);
    let looked = blocking("read", path, move |path| content(path, origin, &reading)).await;
    looked.map_err(|e| match e {
        Error::Io { path, source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            Error::NotRead { path, seconds: limit.as_secs() }
        }
        other => other,
    })
}

fn content(path: &Path, origin: Origin, reading: &Reading) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    Read::by_ref(&mut file).take(MARK.len() as u64).read_to_end(&mut first)?;
    if first == MARK {
        return Ok(Content::Unfinished);
    }
    let is_blank = match origin {
        Origin::Made => {
            let (start, end) = ends(file.seek(SeekFrom::End(0))?);
            reading.is_zero(&mut file, 0, start)? && reading.is_zero(&mut file, end, u64::MAX)?
        }
        Origin::Given { .. } => reading.is_blank(path)?,
    };
    Ok(if is_blank { Content::Nothing } else { Content::Data })
}

/// Where the first part of a volume of `size` bytes that may have a label ends, and where the last begins.
fn ends(size: u64) -> (u64, u64) {
    let start = size.min(ENDS);
    (start, size.saturating_sub(ENDS).max(start))
}

/// mke2fs looks for labels of others: it must find none that a tenant wrote.
async fn begin(path: &Path) -> Result<()> {
    blocking("mark", path, |path| {
        write_first_sector(path, MARK)?;
        clear_ends(path)
    })
    .await
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

/// Writes zeros to both ends, but for the first sector, wherever they are not zeros.
fn clear_ends(path: &Path) -> io::Result<()> {
    let (reading, _waiting) = Reading::new(ENDS_LIMIT);
    let mut file = File::options().read(true).write(true).open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    let (start, end) = ends(size);
    for (from, to) in [(SECTOR as u64, start), (end, size)] {
        for at in (from..to).step_by(MEBIBYTE as usize) {
            let next = (at + MEBIBYTE).min(to);
            if !reading.is_zero(&mut file, at, next)? {
                file.seek(SeekFrom::Start(at))?;
                io::copy(&mut io::repeat(0).take(next - at), &mut file)?;
            }
        }
    }
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

    const GIVEN: Origin = Origin::Given { limit: Duration::from_secs(60) };

    fn volume(size: u64) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn write_at(file: &mut NamedTempFile, at: u64, bytes: &[u8]) {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    }

    async fn content_of(file: &NamedTempFile, origin: Origin) -> Content {
        look(file.path(), origin).await.unwrap()
    }

    #[tokio::test]
    async fn data_of_others_are_found_wherever_they_are() {
        let size = 96 * MEBIBYTE;
        for at in [0, ENDS - 1, ENDS, 40 * MEBIBYTE + 7, size - ENDS, size - 1] {
            let mut file = volume(size);
            write_at(&mut file, at, b"x");
            assert_eq!(content_of(&file, GIVEN).await, Content::Data, "{at}");
            let is_at_an_end = at < ENDS || at >= size - ENDS;
            let expected = if is_at_an_end { Content::Data } else { Content::Nothing };
            assert_eq!(content_of(&file, Origin::Made).await, expected, "{at}");
        }
        for size in [0, 1, SECTOR as u64, ENDS, 2 * ENDS, 2 * ENDS + 1] {
            assert_eq!(content_of(&volume(size), GIVEN).await, Content::Nothing, "{size}");
            assert_eq!(content_of(&volume(size), Origin::Made).await, Content::Nothing, "{size}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_in_time_is_left_alone() {
        let mut file = volume(96 * MEBIBYTE);
        write_at(&mut file, 40 * MEBIBYTE, b"x");
        let refused = ensure_file_system(file.path(), Origin::Given { limit: Duration::ZERO }).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("has not been read to its end within 0 s"), "{refused}");
        assert_eq!(content_of(&file, GIVEN).await, Content::Data);
        assert_eq!(content_of(&file, Origin::Made).await, Content::Nothing);
    }

    #[tokio::test]
    async fn programs_find_no_label_of_a_tenants() {
        let size = 96 * MEBIBYTE;
        let mut file = volume(size);
        for at in [0, SECTOR as u64, 1024, ENDS - 4096, size - ENDS, size - 4096] {
            write_at(&mut file, at, &[0x5a; 4096]);
        }
        begin(file.path()).await.unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes.starts_with(MARK));
        assert!(bytes[MARK.len()..].iter().all(|byte| *byte == 0));
    }

    fn assert_sound(file: &NamedTempFile) {
        let (reading, _waiting) = Reading::new(ENDS_LIMIT);
        assert_eq!(content(file.path(), GIVEN, &reading).unwrap(), Content::Data);
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(file.path()).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }

    #[tokio::test]
    async fn a_file_system_is_made_once() {
        let file = volume(64 * MEBIBYTE);
        ensure_file_system(file.path(), GIVEN).await.unwrap();
        assert_sound(&file);
        let before = std::fs::read(file.path()).unwrap();
        ensure_file_system(file.path(), GIVEN).await.unwrap();
        assert!(before == std::fs::read(file.path()).unwrap());
        let missing =
            ensure_file_system(Path::new("/nonexistent/volume"), GIVEN).await.unwrap_err().to_string();
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
            assert_eq!(content_of(&file, GIVEN).await, Content::Unfinished, "{cut}");
            ensure_file_system(file.path(), GIVEN).await.unwrap();
            assert_sound(&file);
        }
    }

    #[tokio::test]
    async fn what_failed_is_made_again() {
        let file = volume(4096);
        let failed = ensure_file_system(file.path(), GIVEN).await.unwrap_err().to_string();
        assert!(failed.starts_with("mkfs.ext4, to make a file system: "), "{failed}");
        file.as_file().set_len(64 * MEBIBYTE).unwrap();
        ensure_file_system(file.path(), GIVEN).await.unwrap();
        assert_sound(&file);
    }
}
