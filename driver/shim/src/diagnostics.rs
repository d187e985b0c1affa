//! What the shim itself has to say. A guest can cause lines without end, and would fill the host's disk with them: their
//! length, their rate and the size of their file are bounded. What is dropped is counted, and the count is told.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::ftruncate;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Longest line in bytes.
const LINE_MAX: usize = 2048;
/// Lines that may come at once, and the time after which there may be one more.
const BURST: u32 = 200;
const INTERVAL: Duration = Duration::from_millis(500);
/// Most bytes of the file, which then begins anew.
const FILE_MAX: u64 = 1 << 20;

/// Sends what is traced to the standard error, which the service connects to a file of the sandbox's.
pub fn start() {
    // The library that walks queues tells of each mistake of a driver, as an error.
    let filter = EnvFilter::from_default_env();
    let filter = match "virtio_queue=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let diagnostics = Diagnostics(Mutex::new(Bounds::new(Instant::now())));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(diagnostics)
        // It would say so on the standard error, and panic where that fails.
        .log_internal_errors(false)
        .init();
}

struct Diagnostics(Mutex<Bounds>);

impl<'a> MakeWriter<'a> for Diagnostics {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Takes one line.
struct Line<'a>(&'a Mutex<Bounds>);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut bounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(text) = bounds.admit(line, Instant::now()) else { return Ok(line.len()) };
        let mut stderr = io::stderr();
        if bounds.begins_anew(text.len()) {
            // It may be a terminal, if somebody runs the shim by hand.
            let _ = ftruncate(stderr.as_fd(), 0);
        }
        if stderr.write_all(&text).is_err() {
            // The disk is full, most likely.
            bounds.dropped += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What may still be written.
struct Bounds {
    lines: u32,
    since: Instant,
    dropped: u64,
    size: u64,
}

impl Bounds {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, since: now, dropped: 0, size: 0 }
    }

    /// What is written instead of `line`; none if it is dropped.
    fn admit(&mut self, line: &[u8], now: Instant) -> Option<Vec<u8>> {
        let earned = now.duration_since(self.since).as_nanos() / INTERVAL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(BURST).min(BURST);
        if earned > 0 {
            self.lines = (self.lines + earned).min(BURST);
            self.since = now;
        }
        let Some(left) = self.lines.checked_sub(1) else {
            self.dropped += 1;
            return (self.dropped == 1)
                .then(|| b"lines are dropped from here on: there are too many\n".to_vec());
        };
        self.lines = left;
        let mut text = match std::mem::take(&mut self.dropped) {
            0 => Vec::new(),
            dropped => format!("lines dropped: {dropped}\n").into_bytes(),
        };
        text.extend_from_slice(&line[..line.len().min(LINE_MAX)]);
        if line.len() > LINE_MAX {
            text.extend_from_slice(b" [cut]\n");
        }
        Some(text)
    }

    /// Counts `bytes` more, and says whether they are the first of the file again.
    fn begins_anew(&mut self, bytes: usize) -> bool {
        let is_full = self.size + bytes as u64 > FILE_MAX;
        self.size = if is_full { bytes as u64 } else { self.size + bytes as u64 };
        is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let began = Instant::now();
        let mut bounds = Bounds::new(began);
        let written: Vec<_> = (0..100_000).filter_map(|_| bounds.admit(b"again\n", began)).collect();
        assert_eq!(written.len() as u32, BURST + 1);
        assert!(String::from_utf8_lossy(&written[BURST as usize]).contains("are dropped"));
        let later = bounds.admit(b"more\n", began + INTERVAL).unwrap();
        assert_eq!(String::from_utf8(later).unwrap(), "lines dropped: 99800\nmore\n");
        assert!(bounds.admit(b"more\n", began + INTERVAL).is_some_and(|text| text != b"more\n"));
        assert_eq!(bounds.admit(b"more\n", began + 2000 * INTERVAL).unwrap(), b"lines dropped: 1\nmore\n");
    }

    #[test]
    fn a_line_and_the_file_have_an_end() {
        let mut bounds = Bounds::new(Instant::now());
        let long = bounds.admit(&[b'x'; 1 << 20], Instant::now()).unwrap();
        assert!(long.len() < LINE_MAX + 10 && long.ends_with(b" [cut]\n"));
        let starts = (0..3 * FILE_MAX / LINE_MAX as u64).filter(|_| bounds.begins_anew(LINE_MAX)).count();
        assert_eq!(starts, 2);
    }
}
