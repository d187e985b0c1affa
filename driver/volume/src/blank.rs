//! Whether anything has been written to a volume.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek};

const PIECE: u64 = 1 << 20;

/// Reads a volume, until its deadline or until nobody waits for the result any more: a thread that went on would keep the volume
/// busy.
pub struct Reading {
    deadline: Instant,
    is_wanted: Arc<AtomicBool>,
}

/// Who waits for a reading, which ends with it.
pub struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Reading {
    /// A reading that may take so long, and who waits for it.
    pub fn new(limit: Duration) -> (Self, Waiting) {
        let is_wanted = Arc::new(AtomicBool::new(true));
        (Self { deadline: Instant::now() + limit, is_wanted: Arc::clone(&is_wanted) }, Waiting(is_wanted))
    }

    /// Whether a volume holds zeros only. All of it is read but what its storage knows to be a hole: data without a label may be
    /// anywhere. A volume that takes too long is an error of the kind `TimedOut`, for then nobody knows.
    pub fn is_blank(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        let mut at = 0;
        while let Some((start, end)) = data_after(&file, at, size)? {
            if !self.is_zero(&mut file, start, end)? {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Whether a part of a file holds zeros only.
    pub fn is_zero(&self, file: &mut File, start: u64, end: u64) -> io::Result<bool> {
        let mut buffer = vec![0; PIECE as usize];
        let mut at = start;
        file.seek(SeekFrom::Start(start))?;
        while at < end {
            self.check()?;
            let wanted = usize::try_from((end - at).min(PIECE)).unwrap_or(buffer.len());
            let count = file.read(&mut buffer[..wanted])?;
            if count == 0 {
                break;
            }
            if !is_zeros(&buffer[..count]) {
                return Ok(false);
            }
            forget(file, at, count);
            at += count as u64;
        }
        Ok(true)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_wanted.load(Ordering::Relaxed) && Instant::now() < self.deadline {
            Ok(())
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// The next stretch of data at or after a place in a file of `size` bytes, if there is any.
fn data_after(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let Some(start) = next(file, at, Whence::SeekData)? else { return Ok(None) };
    let end = next(file, start, Whence::SeekHole)?.filter(|end| *end > start);
    Ok(Some((start, end.unwrap_or(size))))
}

/// Where data, or a hole, begins at or after a place; none is that there is none before the file's end (lseek(2)). Block devices
/// do not tell: all of one is data.
fn next(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    let place = i64::try_from(at).map_err(io::Error::other)?;
    match lseek(file, place, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(Some(at)),
        Err(Errno::EINVAL | Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// A large volume must not take the place of all else in the page cache. If it does, nothing is wrong but slow.
fn forget(file: &File, at: u64, count: usize) {
    if let (Ok(at), Ok(count)) = (i64::try_from(at), i64::try_from(count)) {
        let _ = posix_fadvise(file, at, count, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bolero::check;
    use tempfile::NamedTempFile;

    use super::*;

    const GIBIBYTE: u64 = 1 << 30;
    const LONG: Duration = Duration::from_secs(60);

    fn volume(size: u64, written: &[u64]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        for at in written {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(b"x").unwrap();
        }
        file
    }

    fn is_blank(file: &NamedTempFile) -> bool {
        let (reading, _waiting) = Reading::new(LONG);
        reading.is_blank(file.path()).unwrap()
    }

    #[test]
    fn a_byte_is_found_wherever_it_is() {
        for size in [0, 1, 4096, GIBIBYTE, 64 * GIBIBYTE + 512] {
            assert!(is_blank(&volume(size, &[])), "{size}");
        }
        check!().with_type::<u64>().with_iterations(200).for_each(|at| {
            let at = at % GIBIBYTE;
            assert!(!is_blank(&volume(GIBIBYTE, &[at])), "{at}");
        });
    }

    /// A file of /proc says as little of holes as a block device does.
    #[test]
    fn what_tells_of_no_holes_is_data_to_its_end() {
        let file = File::open("/proc/version").unwrap();
        assert_eq!(data_after(&file, 0, 100).unwrap(), Some((0, 100)));
        assert_eq!(data_after(&file, 7, 100).unwrap(), Some((7, 100)));
        assert_eq!(data_after(&file, 100, 100).unwrap(), None);
    }

    #[test]
    fn zeros_that_were_written_are_none() {
        let mut file = volume(8 * PIECE, &[]);
        file.write_all(&vec![0; 3 * PIECE as usize + 17]).unwrap();
        assert!(is_blank(&file));
    }

    #[test]
    fn a_reading_ends_at_its_deadline_and_with_who_waits() {
        let mut file = volume(PIECE, &[]);
        file.write_all(&[0; 4096]).unwrap();
        let (late, _waiting) = Reading::new(Duration::ZERO);
        assert_eq!(late.is_blank(file.path()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (unwanted, waiting) = Reading::new(LONG);
        drop(waiting);
        assert_eq!(unwanted.is_blank(file.path()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
