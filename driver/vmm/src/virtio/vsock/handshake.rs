//! The line with which a host client names the guest port.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// Longest line: `CONNECT 4294967295\n`.
const LINE_MAX: usize = 19;

/// A client that has not named its port yet.
pub struct Handshake {
    pub stream: UnixStream,
    line: Vec<u8>,
}

/// The result of reading more of the line.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The line is not complete yet.
    Incomplete,
    /// The client wants this guest port.
    Port(u32),
    /// The client left, or sent something else.
    Failed,
}

impl Handshake {
    /// A handshake on a freshly accepted, non-blocking `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::new() }
    }

    /// Reads what is available, never past the end of the line: the rest is for the guest.
    pub fn advance(&mut self) -> Progress {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return Progress::Failed,
                Ok(_) if byte == *b"\n" => return parse(&self.line).map_or(Progress::Failed, Progress::Port),
                Ok(_) if self.line.len() + 1 < LINE_MAX => self.line.push(byte[0]),
                Ok(_) => return Progress::Failed,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Incomplete,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Failed,
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn handshake() -> (UnixStream, Handshake) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, Handshake::new(server))
    }

    #[test]
    fn a_port_may_come_in_pieces_and_data_behind_it_stays() {
        let (mut client, mut handshake) = handshake();
        client.write_all(b"CONN").unwrap();
        assert_eq!(handshake.advance(), Progress::Incomplete);
        client.write_all(b"ECT 1024\nhello").unwrap();
        assert_eq!(handshake.advance(), Progress::Port(1024));
        let mut rest = [0; 5];
        handshake.stream.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn anything_else_fails() {
        for bad in [
            "CONNECT\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 4294967296\n",
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT 1 \n",
        ] {
            let (mut client, mut handshake) = handshake();
            client.write_all(bad.as_bytes()).unwrap();
            assert_eq!(handshake.advance(), Progress::Failed, "{bad:?}");
        }
        let (client, mut handshake) = handshake();
        drop(client);
        assert_eq!(handshake.advance(), Progress::Failed);
    }
}
