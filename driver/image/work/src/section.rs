//! A part of a file, read as if it were one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::headers;

/// Bytes of a file from one place on. It has a place of its own to read at: several sections of a file do not disturb
/// each other.
#[derive(Debug, Clone)]
pub struct Section {
    file: Arc<File>,
    start: u64,
    length: u64,
    position: u64,
}

impl Section {
    /// `length` bytes of `file` from `start`.
    pub fn new(file: Arc<File>, start: u64, length: u64) -> Self {
        Self { file, start, length, position: 0 }
    }

    /// All of `file`, as long as it is now.
    pub fn whole(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self::new(Arc::new(file), 0, length))
    }

    /// `length` bytes of it from `start`; what ends beyond its end is an error.
    pub fn part(&self, start: u64, length: u64) -> io::Result<Self> {
        let end = start.checked_add(length).filter(|end| *end <= self.length);
        end.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(Self::new(Arc::clone(&self.file), self.start + start, length))
    }

    /// Where it begins, and its bytes.
    pub fn place(&self) -> (u64, u64) {
        (self.start, self.length)
    }

    /// Fails if a header of the archive that it is takes more memory than it may.
    pub fn check_headers(&self) -> io::Result<()> {
        headers::check(&self.file, self.start, self.length)
    }

    /// All of it, which must be no more than `limit` bytes.
    pub fn to_vec(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.length > limit {
            return Err(io::Error::other(format!("it has {} bytes; the limit is {limit}", self.length)));
        }
        let mut bytes = Vec::new();
        Self { position: 0, ..self.clone() }.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let length = self.file.read_at(&mut buffer[..most], self.start + self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_section_ends_where_it_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before|within|after").unwrap();
        let mut section = Section::new(Arc::new(file), 7, 6);
        let mut text = String::new();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "within");
        section.rewind().unwrap();
        assert_eq!(section.to_vec(6).unwrap(), b"within");
        assert!(section.to_vec(5).unwrap_err().to_string().contains("it has 6 bytes; the limit is 5"));
        assert_eq!(section.part(1, 3).unwrap().to_vec(3).unwrap(), b"ith");
        assert!(section.part(4, 3).is_err() && section.part(1, u64::MAX).is_err());
        assert_eq!(section.seek(SeekFrom::End(-2)).unwrap(), 4);
        assert!(section.seek(SeekFrom::Current(-5)).is_err());
    }
}
