//! The last output of a guest's serial port, kept for crash reports.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

const CAPACITY: usize = 64 * 1024;

/// A shared ring that holds the last 64 KiB of console output.
#[derive(Debug, Clone, Default)]
pub struct ConsoleRing(Arc<Mutex<VecDeque<u8>>>);

impl ConsoleRing {
    /// The ring's content, with invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(ring.make_contiguous()).into_owned()
    }

    /// The first line of a kernel panic's message, if there is one.
    pub fn panic_message(&self) -> Option<String> {
        let text = self.text();
        let start = text.find("Kernel panic")?;
        text[start..].lines().next().map(|line| line.trim().to_owned())
    }
}

impl io::Write for ConsoleRing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let overflow = (ring.len() + kept.len()).saturating_sub(CAPACITY);
        ring.drain(..overflow);
        ring.extend(kept);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_ring_keeps_the_end() {
        let mut ring = ConsoleRing::default();
        ring.write_all(&vec![b'a'; CAPACITY]).unwrap();
        ring.write_all(b"end").unwrap();
        let text = ring.text();
        assert_eq!(text.len(), CAPACITY);
        assert!(text.ends_with("aend"));
        ring.write_all(&vec![b'b'; 3 * CAPACITY]).unwrap();
        assert_eq!(ring.text(), "b".repeat(CAPACITY));
    }

    #[test]
    fn a_panic_is_found() {
        let mut ring = ConsoleRing::default();
        assert_eq!(ring.panic_message(), None);
        ring.write_all(b"[ 0.1] fine\r\n[ 0.2] Kernel panic - not syncing: No init\r\nCPU: 0").unwrap();
        assert_eq!(ring.panic_message().as_deref(), Some("Kernel panic - not syncing: No init"));
    }
}
