use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{DescriptorChain, QueueOwnedT};
use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};
use vmm_sys_util::epoll::EventSet;

use super::muxer::Muxer;
use super::{HOST_CID, Header, Op, TYPE_STREAM};
use crate::config::VsockConfig;
use crate::memory::Memory;
use crate::virtio::poll::{Poll, drain};
use crate::virtio::{Active, ConfigSpace, VirtioDevice};
use crate::{Error, Result};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const TOKEN_RECEIVE: u64 = 0;
const TOKEN_TRANSMIT: u64 = 1;
const TOKEN_STOP: u64 = 2;
/// Largest data of one packet, Linux's own limit.
const DATA_MAX: u32 = 64 * 1024;

/// Counts the host programs that are connected or in their handshake.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<AtomicUsize>);

impl Clients {
    /// Current number of host programs.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, count: usize) {
        self.0.store(count, Ordering::SeqCst);
    }
}

/// The socket device.
pub struct Vsock {
    clients: Clients,
    cid: u64,
    listener: UnixListener,
    ready_signal: UnixStream,
}

impl Vsock {
    /// A device for the guest with the context identifier in `config`, which counts its `clients`.
    pub fn new(config: VsockConfig, clients: Clients) -> Result<Self> {
        if config.cid < 3 {
            return Err(Error::Config(format!("the vsock context identifier {} is reserved", config.cid)));
        }
        let cid = u64::from(config.cid);
        let VsockConfig { listener, ready_signal, .. } = config;
        ready_signal.set_nonblocking(true).map_err(Error::io("make a socket non-blocking"))?;
        Ok(Self { clients, cid, listener, ready_signal })
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128, 16]
    }

    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(&self.cid.to_le_bytes())
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        let poll = Poll::new()?;
        poll.add(&active.notifications[RECEIVE], TOKEN_RECEIVE, EventSet::IN)?;
        poll.add(&active.notifications[TRANSMIT], TOKEN_TRANSMIT, EventSet::IN)?;
        poll.add(&active.stop, TOKEN_STOP, EventSet::IN)?;
        let muxer = Muxer::new(&self.listener, &self.ready_signal, &poll)?;
        let mut server = Server { cid: self.cid, active, muxer, buffer: vec![0; DATA_MAX as usize] };
        loop {
            for ready in poll.wait()? {
                match ready.token {
                    TOKEN_STOP => return Ok(()),
                    TOKEN_RECEIVE => drain(&server.active.notifications[RECEIVE]),
                    TOKEN_TRANSMIT => drain(&server.active.notifications[TRANSMIT]),
                    _ => server.muxer.host_event(&poll, ready)?,
                }
            }
            server.transmit(&poll)?;
            server.receive(&poll)?;
            self.clients.set(server.muxer.clients());
        }
    }
}

struct Server<'a> {
    cid: u64,
    active: &'a mut Active,
    muxer: Muxer<'a>,
    buffer: Vec<u8>,
}

impl Server<'_> {
    /// Handles the packets that the guest sent.
    fn transmit(&mut self, poll: &Poll) -> Result<()> {
        let memory = self.active.memory.clone();
        while let Some(mut chain) = self.active.pop(TRANSMIT, &memory)? {
            let head = chain.head_index();
            if let Some((header, length)) = self.read_packet(&memory, &mut chain) {
                self.muxer.guest_packet(poll, header, &self.buffer[..length])?;
            }
            self.active.give_back(TRANSMIT, head, 0)?;
        }
        self.active.notify_driver(TRANSMIT)
    }

    /// Reads a packet and its data, the latter into the buffer; `None` if it is malformed or not for the host.
    fn read_packet(
        &mut self,
        memory: &Memory,
        chain: &mut DescriptorChain<&Memory>,
    ) -> Option<(Header, usize)> {
        let packet = VsockPacket::from_tx_virtq_chain(memory, chain, DATA_MAX)
            .inspect_err(|e| tracing::debug!(error = %e, "a vsock packet of the guest is malformed"))
            .ok()?;
        if packet.dst_cid() != HOST_CID || packet.src_cid() != self.cid || packet.type_() != TYPE_STREAM {
            return None;
        }
        let header = Header {
            host_port: packet.dst_port(),
            guest_port: packet.src_port(),
            op: Op::from_wire(packet.op())?,
            flags: packet.flags(),
            buf_alloc: packet.buf_alloc(),
            fwd_cnt: packet.fwd_cnt(),
        };
        let length = packet.data_slice().map_or(0, |data| data.copy_to(&mut self.buffer[..]));
        Some((header, length))
    }

    /// Delivers waiting packets to the guest while it offers buffers.
    fn receive(&mut self, poll: &Poll) -> Result<()> {
        let memory = self.active.memory.clone();
        while self.muxer.has_packet() {
            let Some(mut chain) = self.active.pop(RECEIVE, &memory)? else { break };
            let head = chain.head_index();
            let written = match VsockPacket::from_rx_virtq_chain(&memory, &mut chain, DATA_MAX) {
                Ok(mut packet) => self.fill_packet(poll, &mut packet)?,
                Err(e) => {
                    tracing::debug!(error = %e, "a vsock buffer of the guest is malformed");
                    Some(0)
                }
            };
            match written {
                Some(written) => self.active.give_back(RECEIVE, head, written)?,
                None => {
                    self.active.queues[RECEIVE].go_to_previous_position();
                    break;
                }
            }
        }
        self.active.notify_driver(RECEIVE)
    }

    /// Writes the next packet; `None` if none was left.
    fn fill_packet<B: vm_memory::bitmap::BitmapSlice>(
        &mut self,
        poll: &Poll,
        packet: &mut VsockPacket<'_, B>,
    ) -> Result<Option<u32>> {
        let room = packet.data_slice().map_or(0, vm_memory::VolatileSlice::len).min(self.buffer.len());
        let Some((header, length)) = self.muxer.next_packet(poll, &mut self.buffer[..room])? else {
            return Ok(None);
        };
        if let (Some(data), true) = (packet.data_slice(), length > 0) {
            data.copy_from(&self.buffer[..length]);
        }
        packet
            .set_header_from_raw(&[0; PKT_HEADER_SIZE])
            .map_err(|e| Error::Config(format!("a vsock header cannot be written: {e}")))?;
        packet
            .set_src_cid(HOST_CID)
            .set_dst_cid(self.cid)
            .set_src_port(header.host_port)
            .set_dst_port(header.guest_port)
            .set_len(length as u32)
            .set_type(TYPE_STREAM)
            .set_op(header.op as u16)
            .set_flags(header.flags)
            .set_buf_alloc(header.buf_alloc)
            .set_fwd_cnt(header.fwd_cnt);
        Ok(Some((PKT_HEADER_SIZE + length) as u32))
    }
}
