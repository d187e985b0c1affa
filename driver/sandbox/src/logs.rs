//! Reading a container's log.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use shim_control::{LogEntry, LogLimits, LogStream, open_untrusted};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Result};
use crate::files;

/// Bytes by which a file may be longer than its limit: its first entry is written however long it is.
const ENTRY_MAX: u64 = 256 * 1024;

/// How many lines of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// All of them.
    All,
    /// This many.
    Lines(usize),
}

/// What of a log is wanted.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)]
pub struct LogQuery {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Each line's time before it.
    pub timestamps: bool,
    /// The end only.
    pub tail: Tail,
    /// Nothing older.
    pub since: Option<OffsetDateTime>,
}

impl LogQuery {
    fn wants(&self, entry: &LogEntry) -> bool {
        let stream = match entry.stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| entry.time >= since)
    }
}

/// Reads the log at `path` and the files that were rotated before it. A shim that is somebody else's by now may write
/// more than `limits`: no more than these is read.
pub fn read(path: &Path, limits: LogLimits, query: &LogQuery) -> Result<String> {
    let mut entries = Vec::new();
    for file in files(path, limits.files) {
        let content = open_untrusted(&file).map_err(Error::io("open", &file))?;
        let reader = BufReader::new(content.take(limits.file_bytes.saturating_add(ENTRY_MAX)));
        for line in reader.lines() {
            let line = line.map_err(Error::io("read", &file))?;
            // A line that is being written just now is not whole.
            if let Ok(entry) = serde_json::from_str::<LogEntry>(&line)
                && query.wants(&entry)
            {
                entries.push(entry);
            }
        }
    }
    let skipped = match query.tail {
        Tail::All => 0,
        Tail::Lines(count) => entries.len().saturating_sub(count),
    };
    let mut text = String::new();
    for entry in &entries[skipped..] {
        if query.timestamps {
            text.push_str(&entry.time.format(&Rfc3339).unwrap_or_default());
            text.push(' ');
        }
        text.push_str(&entry.log);
    }
    Ok(text)
}

/// Removes a log and the files that were rotated before it.
pub fn remove(path: &Path, limits: LogLimits) -> Result<()> {
    files(path, limits.files).iter().try_for_each(|file| files::remove(file))
}

/// The log's files, at most `count`, oldest first.
fn files(path: &Path, count: u32) -> Vec<PathBuf> {
    let rotated = (1..count).map(|number| PathBuf::from(format!("{}.{number}", path.display())));
    let mut files: Vec<_> = rotated.take_while(|path| path.exists()).collect();
    files.reverse();
    files.extend(path.exists().then(|| path.to_owned()));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LogLimits = LogLimits { file_bytes: 4096, files: 2 };

    fn log() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("container.log");
        let line = |n: u32, stream: &str| {
            format!(
                "{{\"log\":\"line {n}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:0{n}Z\"}}\n"
            )
        };
        std::fs::write(folder.path().join("container.log.1"), line(1, "stdout") + &line(2, "stderr"))
            .unwrap();
        std::fs::write(&path, line(3, "stdout") + "{\"log\":\"cut").unwrap();
        (folder, path)
    }

    fn query() -> LogQuery {
        LogQuery { stdout: true, stderr: true, timestamps: false, tail: Tail::All, since: None }
    }

    #[test]
    fn rotated_files_come_first() {
        let (_folder, path) = log();
        assert_eq!(read(&path, LIMITS, &query()).unwrap(), "line 1\nline 2\nline 3\n");
        remove(&path, LIMITS).unwrap();
        assert_eq!(read(&path, LIMITS, &query()).unwrap(), "");
    }

    #[test]
    fn no_more_is_read_than_a_log_may_have() {
        let (folder, path) = log();
        std::fs::rename(&path, folder.path().join("container.log.2")).unwrap();
        let line = "{\"log\":\"x\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
        std::fs::write(&path, line.repeat(100_000)).unwrap();
        let text = read(&path, LIMITS, &query()).unwrap();
        assert!(!text.contains("line 3"), "a third file is one too many");
        let written = (LIMITS.file_bytes + ENTRY_MAX) as usize / line.len();
        assert_eq!(text.matches('x').count(), written);
    }

    #[test]
    fn a_query_chooses() {
        let (_folder, path) = log();
        let read = |query: LogQuery| read(&path, LIMITS, &query).unwrap();
        assert_eq!(read(LogQuery { stderr: false, ..query() }), "line 1\nline 3\n");
        assert_eq!(read(LogQuery { tail: Tail::Lines(1), ..query() }), "line 3\n");
        let since = OffsetDateTime::parse("2026-01-01T00:00:02Z", &Rfc3339).unwrap();
        assert_eq!(read(LogQuery { since: Some(since), ..query() }), "line 2\nline 3\n");
        let timed = LogQuery { timestamps: true, tail: Tail::Lines(1), ..query() };
        assert_eq!(read(timed), "2026-01-01T00:00:03Z line 3\n");
    }
}
