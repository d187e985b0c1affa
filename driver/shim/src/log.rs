//! The container's log on disk: lines of JSON, in files that are rotated.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shim_control::{LogEntry, LogLimits, LogStream};
use time::OffsetDateTime;

/// Longest text of one entry; a longer line becomes several entries.
const ENTRY_MAX: usize = 16 * 1024;

/// The log that all of a sandbox's streams share.
pub struct Log {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
}

impl Log {
    /// Opens the log at `path` for appending.
    pub fn open(path: PathBuf, limits: LogLimits) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, limits, file, size })
    }

    /// Appends an entry.
    pub fn append(&mut self, stream: LogStream, text: &[u8]) -> io::Result<()> {
        let log = String::from_utf8_lossy(text).into_owned();
        let mut line = serde_json::to_vec(&LogEntry { log, stream, time: OffsetDateTime::now_utc() })?;
        line.push(b'\n');
        if self.size > 0 && self.size + line.len() as u64 > self.limits.file_bytes {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.limits.files.saturating_sub(1);
        for number in (0..oldest).rev() {
            match fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.file = File::options().write(true).create(true).truncate(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// The name of the file that was rotated `number` times.
fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Splits a stream of bytes into lines, and keeps the last line until it is complete.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Adds `data` and returns the complete lines, long ones in pieces.
    pub fn push(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            while self.0.len() > ENTRY_MAX {
                let rest = self.0.split_off(ENTRY_MAX);
                pieces.push(std::mem::replace(&mut self.0, rest));
            }
            if self.0.last() == Some(&b'\n') {
                pieces.push(std::mem::take(&mut self.0));
            }
        }
        pieces
    }

    /// The last line, if it is incomplete.
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_their_ends() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntwo\nthr"), [b"one\n".to_vec(), b"two\n".to_vec()]);
        assert_eq!(lines.push(b"ee\n"), [b"three\n".to_vec()]);
        let long = lines.push(&vec![b'x'; ENTRY_MAX + 1]);
        assert_eq!((long.len(), long[0].len()), (1, ENTRY_MAX));
        assert_eq!(lines.finish().unwrap(), b"x");
    }

    #[test]
    fn old_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("container.log");
        let mut log = Log::open(path.clone(), LogLimits { file_bytes: 200, files: 3 }).unwrap();
        for number in 0..20 {
            log.append(LogStream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["container.log", "container.log.1", "container.log.2"]);
        let last = fs::read_to_string(&path).unwrap();
        let entry: LogEntry = serde_json::from_str(last.lines().last().unwrap()).unwrap();
        assert_eq!((entry.log.as_str(), entry.stream), ("line 19\n", LogStream::Stdout));
        assert!(fs::metadata(rotated(&path, 1)).unwrap().len() <= 200);
    }
}
