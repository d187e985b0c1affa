//! The connections of one guest, and the clients in their handshake.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};

use vmm_sys_util::epoll::EventSet;

use super::connection::Connection;
use super::handshake::{Handshake, Progress};
use super::{Header, Op};
use crate::virtio::poll::{Poll, Ready};
use crate::{Error, Result};

/// Token of the listener; each stream's token is its host port, which is larger.
pub const TOKEN_LISTENER: u64 = 0x100;
const FIRST_PORT: u32 = 1 << 30;
/// Most clients, connected or in their handshake.
const CLIENTS_MAX: usize = 1024;
/// Most resets that are queued for a guest that offers no buffers.
const RESETS_MAX: usize = 256;

/// The host side of the device.
pub struct Muxer<'a> {
    listener: &'a UnixListener,
    ready_signal: &'a UnixStream,
    handshakes: BTreeMap<u32, Handshake>,
    connections: BTreeMap<u32, Connection>,
    /// Ports whose connections may have packets, in service order.
    ready: VecDeque<u32>,
    resets: VecDeque<Header>,
    next_port: u32,
}

impl<'a> Muxer<'a> {
    /// A muxer for clients of `listener`, which is added to `poll`. `ready_signal` receives a byte when the guest
    /// tries to connect to the host.
    pub fn new(listener: &'a UnixListener, ready_signal: &'a UnixStream, poll: &Poll) -> Result<Self> {
        listener.set_nonblocking(true).map_err(Error::io("make the vsock listener non-blocking"))?;
        poll.add(listener, TOKEN_LISTENER, EventSet::IN)?;
        Ok(Self {
            listener,
            ready_signal,
            handshakes: BTreeMap::new(),
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
        })
    }

    /// Handles an event of the listener or of a stream.
    pub fn host_event(&mut self, poll: &Poll, ready: Ready) -> Result<()> {
        if ready.token == TOKEN_LISTENER {
            return self.accept(poll);
        }
        let Ok(port) = u32::try_from(ready.token) else { return Ok(()) };
        if self.handshakes.contains_key(&port) {
            return self.advance_handshake(poll, port);
        }
        if let Some(connection) = self.connections.get_mut(&port) {
            if ready.events.contains(EventSet::OUT) {
                connection.flush();
            }
            if ready.events.intersects(EventSet::IN | EventSet::HANG_UP) {
                connection.readable = true;
            }
            if ready.events.contains(EventSet::ERROR) {
                connection.reset();
            }
        }
        self.settle(poll, port)
    }

    /// Handles a packet from the guest.
    pub fn guest_packet(&mut self, poll: &Poll, header: Header, data: &[u8]) -> Result<()> {
        match self.connections.get_mut(&header.host_port) {
            Some(connection) => {
                connection.receive(header, data);
                self.settle(poll, header.host_port)
            }
            None if header.op != Op::Reset && self.resets.len() < RESETS_MAX => {
                if header.op == Op::Request {
                    // A full socket already holds an unread signal.
                    let _ = self.ready_signal.write(&[0]);
                }
                self.resets.push_back(Header { op: Op::Reset, flags: 0, buf_alloc: 0, fwd_cnt: 0, ..header });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Number of host programs that are connected or in their handshake.
    pub fn clients(&self) -> usize {
        self.handshakes.len() + self.connections.len()
    }

    /// Whether a packet waits for the guest.
    pub fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// The next packet for the guest, its data in `data`.
    pub fn next_packet(&mut self, poll: &Poll, data: &mut [u8]) -> Result<Option<(Header, usize)>> {
        if let Some(reset) = self.resets.pop_front() {
            return Ok(Some((reset, 0)));
        }
        while let Some(port) = self.ready.pop_front() {
            let packet = self.connections.get_mut(&port).and_then(|connection| connection.next_packet(data));
            self.settle(poll, port)?;
            if packet.is_some() {
                return Ok(packet);
            }
        }
        Ok(None)
    }

    fn accept(&mut self, poll: &Poll) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => {
                    tracing::warn!(error = %e, "a vsock client cannot be accepted");
                    return Ok(());
                }
            };
            if self.clients() >= CLIENTS_MAX {
                tracing::warn!("a vsock client is refused: there are {CLIENTS_MAX} already");
                continue;
            }
            stream.set_nonblocking(true).map_err(Error::io("make a vsock client non-blocking"))?;
            let port = self.free_port();
            poll.add(&stream, u64::from(port), EventSet::IN)?;
            self.handshakes.insert(port, Handshake::new(stream));
            self.advance_handshake(poll, port)?;
        }
    }

    fn advance_handshake(&mut self, poll: &Poll, port: u32) -> Result<()> {
        let Some(mut handshake) = self.handshakes.remove(&port) else { return Ok(()) };
        match handshake.advance() {
            Progress::Incomplete => {
                self.handshakes.insert(port, handshake);
                Ok(())
            }
            Progress::Failed => poll.remove(&handshake.stream),
            Progress::Port(guest_port) => {
                let mut connection = Connection::new(handshake.stream, port, guest_port);
                connection.interest = EventSet::IN;
                self.connections.insert(port, connection);
                self.settle(poll, port)
            }
        }
    }

    /// Updates the poll set and the ready list after a connection's state has changed.
    fn settle(&mut self, poll: &Poll, port: u32) -> Result<()> {
        let Some(connection) = self.connections.get_mut(&port) else { return Ok(()) };
        let wanted = connection.wanted_interest();
        // A stream with no wanted events leaves the set: a hang-up would be reported without end.
        match (connection.interest.is_empty(), wanted.is_empty()) {
            (true, false) => poll.add(connection.stream(), u64::from(port), wanted)?,
            (false, true) => poll.remove(connection.stream())?,
            (false, false) if wanted != connection.interest => {
                poll.modify(connection.stream(), u64::from(port), wanted)?;
            }
            _ => {}
        }
        connection.interest = wanted;
        if connection.is_gone() {
            self.connections.remove(&port);
            return Ok(());
        }
        if connection.has_packet() && !self.ready.contains(&port) {
            self.ready.push_back(port);
        }
        Ok(())
    }

    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.connections.contains_key(&port) && !self.handshakes.contains_key(&port) {
                return port;
            }
        }
    }
}
