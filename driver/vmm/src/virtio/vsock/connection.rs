//! One stream between a host client and a guest port, with credit-based flow control (virtio 1.2 §5.10.6.3).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// Bytes buffered for a host client that does not read.
const BUFFER: u32 = 256 * 1024;
/// Freed bytes after which the guest is told of its credit.
const CREDIT_STEP: u32 = BUFFER / 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guest has not answered the request.
    Requested,
    /// Data flows.
    Open,
    /// A reset is to be sent, then the connection is gone.
    Resetting,
    /// The connection can be removed.
    Gone,
}

/// A connection's state.
pub struct Connection {
    stream: UnixStream,
    state: State,
    host_port: u32,
    guest_port: u32,
    request_sent: bool,
    /// Data from the guest that the host client has not taken yet.
    to_host: VecDeque<u8>,
    forwarded: Wrapping<u32>,
    forwarded_told: Wrapping<u32>,
    credit_wanted: bool,
    sent: Wrapping<u32>,
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    /// Whether the host client sends no more.
    host_ended: bool,
    /// Whether the guest was told of that.
    end_told: bool,
    guest_ended: bool,
    /// Whether the stream may have data.
    pub readable: bool,
    /// The events for which the stream is polled.
    pub interest: EventSet,
}

impl Connection {
    /// A connection that will request `guest_port`.
    pub fn new(stream: UnixStream, host_port: u32, guest_port: u32) -> Self {
        Self {
            stream,
            state: State::Requested,
            host_port,
            guest_port,
            request_sent: false,
            to_host: VecDeque::new(),
            forwarded: Wrapping(0),
            forwarded_told: Wrapping(0),
            credit_wanted: false,
            sent: Wrapping(0),
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            host_ended: false,
            end_told: false,
            guest_ended: false,
            readable: false,
            interest: EventSet::empty(),
        }
    }

    /// The client's stream.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether the connection can be removed.
    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// The events for which the stream must be polled.
    pub fn wanted_interest(&self) -> EventSet {
        let mut events = EventSet::empty();
        if self.state == State::Gone {
            return events;
        }
        if self.state == State::Open && !self.host_ended && !self.readable && self.credit() > 0 {
            events |= EventSet::IN;
        }
        if !self.to_host.is_empty() {
            events |= EventSet::OUT;
        }
        events
    }

    /// Whether there is a packet for the guest.
    pub fn has_packet(&self) -> bool {
        match self.state {
            State::Requested => !self.request_sent,
            State::Open => {
                self.credit_due()
                    || (self.readable && self.credit() > 0)
                    || (self.host_ended && !self.end_told)
            }
            State::Resetting => true,
            State::Gone => false,
        }
    }

    /// The next packet for the guest, and the length of its data in `data`. To be called while [`Self::has_packet`].
    pub fn next_packet(&mut self, data: &mut [u8]) -> Option<(Header, usize)> {
        match self.state {
            State::Requested if !self.request_sent => {
                self.request_sent = true;
                Some((self.header(Op::Request, 0), 0))
            }
            State::Resetting => {
                self.state = State::Gone;
                Some((self.header(Op::Reset, 0), 0))
            }
            State::Open => self.next_open_packet(data),
            State::Requested | State::Gone => None,
        }
    }

    fn next_open_packet(&mut self, data: &mut [u8]) -> Option<(Header, usize)> {
        if self.readable && self.credit() > 0 {
            let length = data.len().min(self.credit() as usize);
            match self.stream.read(&mut data[..length]) {
                Ok(0) => self.host_ended = true,
                Ok(length) => {
                    self.sent += Wrapping(length as u32);
                    return Some((self.header(Op::Data, 0), length));
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => self.reset(),
            }
            self.readable = false;
        }
        if self.state == State::Resetting {
            return self.next_packet(data);
        }
        if self.host_ended && !self.end_told {
            self.end_told = true;
            return Some((self.header(Op::Shutdown, SHUTDOWN_SEND), 0));
        }
        self.credit_due().then(|| (self.header(Op::CreditUpdate, 0), 0))
    }

    /// Handles a packet from the guest.
    pub fn receive(&mut self, header: Header, data: &[u8]) {
        if header.guest_port != self.guest_port {
            return self.reset();
        }
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = Wrapping(header.fwd_cnt);
        match (self.state, header.op) {
            (State::Requested, Op::Response) => self.open(),
            (State::Requested | State::Open, Op::Reset) => self.state = State::Gone,
            (State::Open, Op::Data) => self.receive_data(data),
            (State::Open, Op::Shutdown) => self.receive_shutdown(header.flags),
            (State::Open, Op::CreditRequest) => self.credit_wanted = true,
            (State::Open, Op::CreditUpdate) | (State::Resetting | State::Gone, _) => {}
            _ => self.reset(),
        }
    }

    /// Writes to the host client as much as it takes without blocking.
    pub fn flush(&mut self) {
        while !self.to_host.is_empty() {
            match self.stream.write(self.to_host.as_slices().0) {
                Ok(written) => {
                    self.to_host.drain(..written);
                    self.forwarded += Wrapping(written as u32);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.reset(),
            }
        }
        if self.guest_ended {
            // The client may have closed already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Resets the connection; the guest is told.
    pub fn reset(&mut self) {
        self.to_host.clear();
        self.state = match self.state {
            State::Requested if !self.request_sent => State::Gone,
            State::Gone => State::Gone,
            _ => State::Resetting,
        };
    }

    fn open(&mut self) {
        self.state = State::Open;
        self.to_host.extend(format!("OK {}\n", self.host_port).into_bytes());
        // The reply line is not the guest's data, so it must not count as forwarded.
        self.forwarded -= Wrapping(self.to_host.len() as u32);
        self.flush();
    }

    fn receive_data(&mut self, data: &[u8]) {
        if self.guest_ended || self.to_host.len() + data.len() > BUFFER as usize {
            return self.reset();
        }
        self.to_host.extend(data);
        self.flush();
    }

    fn receive_shutdown(&mut self, flags: u32) {
        if flags & SHUTDOWN_SEND != 0 {
            self.guest_ended = true;
            self.flush();
        }
        if flags & SHUTDOWN_RECEIVE != 0 {
            self.host_ended = true;
            self.end_told = true;
        }
        if self.guest_ended && self.host_ended && self.end_told && self.to_host.is_empty() {
            self.reset();
        }
    }

    /// Bytes for which the guest has room.
    fn credit(&self) -> u32 {
        let in_flight = (self.sent - self.guest_forwarded).0;
        self.guest_buffer.saturating_sub(in_flight)
    }

    fn credit_due(&self) -> bool {
        self.credit_wanted || (self.forwarded - self.forwarded_told).0.cast_signed() >= CREDIT_STEP as i32
    }

    fn header(&mut self, op: Op, flags: u32) -> Header {
        self.credit_wanted = false;
        self.forwarded_told = self.forwarded;
        Header {
            host_port: self.host_port,
            guest_port: self.guest_port,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(op: Op) -> Header {
        Header { host_port: 7, guest_port: 1024, op, flags: 0, buf_alloc: 8, fwd_cnt: 0 }
    }

    fn open() -> (UnixStream, Connection) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(server, 7, 1024);
        assert_eq!(connection.next_packet(&mut []).unwrap().0.op, Op::Request);
        connection.receive(guest(Op::Response), &[]);
        let mut reply = [0; 5];
        (&client).read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"OK 7\n");
        (client, connection)
    }

    #[test]
    fn data_flows_both_ways_within_the_guests_credit() {
        let (mut client, mut connection) = open();
        client.write_all(b"0123456789").unwrap();
        connection.readable = true;
        let mut data = [0; 64];
        let (header, length) = connection.next_packet(&mut data).unwrap();
        assert_eq!((header.op, &data[..length]), (Op::Data, &b"01234567"[..]));
        assert!(!connection.has_packet(), "no credit is left");
        connection.receive(Header { fwd_cnt: 8, ..guest(Op::CreditUpdate) }, &[]);
        assert_eq!(connection.next_packet(&mut data).unwrap().1, 2);
        connection.receive(guest(Op::Data), b"reply");
        let mut reply = [0; 5];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"reply");
    }

    #[test]
    fn forwarded_counts_only_the_guests_bytes() {
        let (_client, mut connection) = open();
        connection.receive(guest(Op::Data), b"abc");
        connection.receive(guest(Op::CreditRequest), &[]);
        let (header, _) = connection.next_packet(&mut []).unwrap();
        assert_eq!((header.op, header.fwd_cnt), (Op::CreditUpdate, 3));
    }

    #[test]
    fn a_guest_that_floods_is_reset() {
        let (_client, mut connection) = open();
        let flood = vec![0; 64 * 1024];
        for _ in 0..16 {
            connection.receive(guest(Op::Data), &flood);
        }
        assert_eq!(connection.next_packet(&mut []).unwrap().0.op, Op::Reset);
        assert!(connection.is_gone());
    }

    #[test]
    fn a_wrong_port_or_an_early_packet_resets() {
        let (_client, mut connection) = open();
        connection.receive(Header { guest_port: 1, ..guest(Op::Data) }, b"x");
        assert_eq!(connection.next_packet(&mut []).unwrap().0.op, Op::Reset);
        let (_client, server) = UnixStream::pair().unwrap();
        let mut early = Connection::new(server, 7, 1024);
        early.next_packet(&mut []);
        early.receive(guest(Op::Data), b"x");
        assert_eq!(early.next_packet(&mut []).unwrap().0.op, Op::Reset);
    }

    #[test]
    fn each_side_may_end_by_itself() {
        let (client, mut connection) = open();
        client.shutdown(Shutdown::Write).unwrap();
        connection.readable = true;
        let (header, _) = connection.next_packet(&mut [0; 8]).unwrap();
        assert_eq!((header.op, header.flags), (Op::Shutdown, SHUTDOWN_SEND));
        connection.receive(guest(Op::Data), b"late");
        let mut late = [0; 4];
        (&client).read_exact(&mut late).unwrap();
        connection.receive(Header { flags: SHUTDOWN_SEND | SHUTDOWN_RECEIVE, ..guest(Op::Shutdown) }, &[]);
        assert_eq!(connection.next_packet(&mut []).unwrap().0.op, Op::Reset);
    }
}
