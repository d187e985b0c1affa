//! The socket device (virtio 1.2 §5.10). On the host side it is one Unix socket: a client connects, sends
//! `CONNECT <port>\n`, reads `OK <host port>\n` when the guest has accepted, and has a byte stream from then on.
//! Guests cannot open connections to the host; an attempt is refused and signalled: it shows that the guest is up.

mod connection;
mod device;
mod handshake;
mod muxer;

pub use device::{Clients, Vsock};

/// Context identifier of the host.
const HOST_CID: u64 = 2;
/// The only kind of socket.
const TYPE_STREAM: u16 = 1;

/// Packet operations (virtio 1.2 §5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    fn from_wire(value: u16) -> Option<Self> {
        [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ]
        .into_iter()
        .find(|op| *op as u16 == value)
    }
}

/// `Shutdown` flag: the sender receives no more.
const SHUTDOWN_RECEIVE: u32 = 1;
/// `Shutdown` flag: the sender sends no more.
const SHUTDOWN_SEND: u32 = 2;

/// The fields of a packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    host_port: u32,
    guest_port: u32,
    op: Op,
    flags: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}
