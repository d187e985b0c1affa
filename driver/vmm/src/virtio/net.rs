//! The network device (virtio 1.2 §5.1), a slot for a tap. Packets carry the virtio header that the tap
//! understands, so that checksums and segmentation are left to whom the packet reaches last.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_queue::{QueueOwnedT, QueueT, Writer};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;

use super::poll::{Poll, drain};
use super::throttle::Throttle;
use super::{Active, ConfigSpace, Medium, RateLimit, TrafficCounter, VirtioDevice};
use crate::config::{MacAddress, NicConfig};
use crate::memory::Memory;
use crate::{Error, Result};

ioctl_iow_nr!(TUNSETOFFLOAD, 0x54, 208, libc::c_uint);
ioctl_iow_nr!(TUNSETVNETHDRSZ, 0x54, 216, libc::c_int);

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const TOKEN_RECEIVE: u64 = 0;
const TOKEN_TRANSMIT: u64 = 1;
const TOKEN_TAP: u64 = 2;
const TOKEN_STOP: u64 = 3;
const TOKEN_RECEIVING: u64 = 4;
const TOKEN_SENDING: u64 = 5;

/// `struct virtio_net_hdr_v1`.
const HEADER_SIZE: libc::c_int = 12;
/// The header with the largest packet that segmentation offload makes.
const PACKET_MAX: usize = 12 + 65550;
/// Where `num_buffers` is in the header.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;
/// Size of an element of the used ring, and where the elements begin (virtio 1.2 §2.7.8).
const USED_ELEMENT: u64 = 8;
const USED_ELEMENTS: u64 = 4;
/// What a guest's feature lets the tap leave undone.
const TAP_OFFLOADS: [(u32, u32); 3] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
];

/// A network interface, or a slot for one.
pub struct Net {
    nic: Option<NicConfig>,
    mac: MacAddress,
    traffic: TrafficCounter,
}

impl Net {
    /// An empty slot. Its driver gets `mac`, and whoever sets up what is put in gives it the right one.
    pub fn new(mac: MacAddress) -> Self {
        Self { nic: None, mac, traffic: TrafficCounter::default() }
    }
}

/// Prepares a tap: non-blocking, headers of virtio 1.
fn prepare(tap: &File) -> Result<()> {
    // SAFETY: fcntl on an open descriptor, with integer arguments.
    let status = unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    check(status, "make a tap non-blocking")?;
    // SAFETY: the argument points to an integer that lives through the call.
    let status = unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ(), &HEADER_SIZE) };
    check(status, "set a tap's header size")
}

/// Lets the tap leave to the guest what the guest's driver can do.
fn set_offloads(tap: &File, features: u64) -> Result<()> {
    let accepted = |(feature, _): &&(u32, u32)| features & (1 << feature) != 0;
    let offloads = TAP_OFFLOADS.iter().filter(accepted).fold(0, |set, (_, offload)| set | offload);
    // SAFETY: the argument is a plain set of bits.
    let status = unsafe { ioctl_with_val(tap, TUNSETOFFLOAD(), offloads.into()) };
    check(status, "set a tap's offloads")
}

fn check(status: libc::c_int, what: &'static str) -> Result<()> {
    if status < 0 { Err(Error::Io { what, source: io::Error::last_os_error() }) } else { Ok(()) }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_NET_F_MAC)
            | (1 << VIRTIO_NET_F_MRG_RXBUF)
            | (1 << VIRTIO_NET_F_CSUM)
            | (1 << VIRTIO_NET_F_HOST_TSO4)
            | (1 << VIRTIO_NET_F_HOST_TSO6)
            | (1 << VIRTIO_NET_F_GUEST_CSUM)
            | (1 << VIRTIO_NET_F_GUEST_TSO4)
            | (1 << VIRTIO_NET_F_GUEST_TSO6)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(&self.mac.0)
    }

    fn is_present(&self) -> bool {
        self.nic.is_some()
    }

    fn traffic(&self) -> TrafficCounter {
        self.traffic.clone()
    }

    fn insert(&mut self, medium: Medium) -> Result<()> {
        match medium {
            Medium::Nic(_) if self.nic.is_some() => Err(Error::Slot("it has an interface already".into())),
            Medium::Nic(nic) => {
                prepare(&nic.tap)?;
                self.nic = Some(nic);
                Ok(())
            }
            Medium::Disk(_) => Err(Error::Slot("it takes an interface, not a disk".into())),
        }
    }

    fn eject(&mut self) -> Result<()> {
        self.nic.take().map(drop).ok_or_else(|| Error::Slot("it has no interface".into()))
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        let Some(NicConfig { tap, limit }) = &mut self.nic else { return Ok(()) };
        set_offloads(tap, active.features)?;
        Server::new(tap, active, *limit, &self.traffic)?.run()
    }
}

struct Server<'a> {
    tap: &'a mut File,
    traffic: &'a TrafficCounter,
    active: &'a mut Active,
    /// Whether a packet may be spread over several of the driver's buffers.
    mergeable: bool,
    buffer: Vec<u8>,
    /// Length of a packet in `buffer` that waits for the driver to offer a buffer.
    held: Option<usize>,
    receiving: Throttle,
    sending: Throttle,
}

/// A buffer of the driver that is being filled.
struct Taken<'m> {
    head: u16,
    room: usize,
    writer: Option<Writer<'m>>,
}

impl<'a> Server<'a> {
    fn new(
        tap: &'a mut File,
        active: &'a mut Active,
        limit: RateLimit,
        traffic: &'a TrafficCounter,
    ) -> Result<Self> {
        let mergeable = active.features & (1 << VIRTIO_NET_F_MRG_RXBUF) != 0;
        let (receiving, sending) = (Throttle::new(limit)?, Throttle::new(limit)?);
        Ok(Self {
            tap,
            traffic,
            active,
            mergeable,
            buffer: vec![0; PACKET_MAX],
            held: None,
            receiving,
            sending,
        })
    }

    fn run(&mut self) -> Result<()> {
        let poll = Poll::new()?;
        poll.add(&self.active.notifications[RECEIVE], TOKEN_RECEIVE, EventSet::IN)?;
        poll.add(&self.active.notifications[TRANSMIT], TOKEN_TRANSMIT, EventSet::IN)?;
        poll.add(self.tap, TOKEN_TAP, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        poll.add(&self.active.stop, TOKEN_STOP, EventSet::IN)?;
        poll.add(&self.receiving, TOKEN_RECEIVING, EventSet::IN)?;
        poll.add(&self.sending, TOKEN_SENDING, EventSet::IN)?;
        loop {
            for ready in poll.wait()? {
                match ready.token {
                    TOKEN_STOP => return Ok(()),
                    TOKEN_TRANSMIT => {
                        drain(&self.active.notifications[TRANSMIT]);
                        self.transmit()?;
                    }
                    TOKEN_RECEIVE => {
                        drain(&self.active.notifications[RECEIVE]);
                        self.receive()?;
                    }
                    TOKEN_SENDING => {
                        self.sending.drain()?;
                        self.transmit()?;
                    }
                    TOKEN_RECEIVING => {
                        self.receiving.drain()?;
                        self.receive()?;
                    }
                    _ => self.receive()?,
                }
            }
        }
    }

    /// Moves packets from the tap to the guest until one of them has no more, or the rate is reached.
    fn receive(&mut self) -> Result<()> {
        let mut merged = false;
        while self.receiving.is_open()? {
            let length = match self.held.take() {
                Some(length) => length,
                None => match self.tap.read(&mut self.buffer) {
                    Ok(length) => length,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        tracing::warn!("a tap cannot be read: {e}");
                        break;
                    }
                },
            };
            match self.deliver(length)? {
                0 => {
                    self.held = Some(length);
                    break;
                }
                buffers => {
                    self.receiving.count(length as u64);
                    self.traffic.incoming(payload(length as u64));
                    merged |= buffers > 1;
                }
            }
        }
        // The queue counts what was used one by one, and would miss that the driver waits for one in between.
        if merged {
            self.active.interrupt.queue();
        }
        self.active.notify_driver(RECEIVE)
    }

    /// Gives the packet in the buffer to the guest; says how many of its buffers took it, 0 if it offers too few.
    /// A packet that does not fit a buffer where packets are not spread is dropped, as a wire would.
    fn deliver(&mut self, length: usize) -> Result<u16> {
        let memory = self.active.memory.clone();
        let mut taken: Vec<Taken<'_>> = Vec::new();
        let mut room = 0;
        while room < length && (self.mergeable || taken.is_empty()) {
            let Some(chain) = self.active.pop(RECEIVE, &memory)? else {
                taken.iter().for_each(|_| self.active.queues[RECEIVE].go_to_previous_position());
                return Ok(0);
            };
            let head = chain.head_index();
            let writer = chain.writer(&memory).ok();
            let buffer = writer.as_ref().map_or(0, Writer::available_bytes);
            taken.push(Taken { head, room: buffer, writer });
            room += buffer;
        }
        let buffers = taken.len() as u16;
        self.buffer[NUM_BUFFERS].copy_from_slice(&buffers.to_le_bytes());
        let fits = room >= length;
        let mut rest = &self.buffer[..if fits { length } else { 0 }];
        let mut used = Vec::with_capacity(taken.len());
        for buffer in taken {
            let (now, later) = rest.split_at(rest.len().min(buffer.room));
            let written = match buffer.writer {
                Some(mut writer) if !now.is_empty() => writer.write_all(now).map_or(0, |()| now.len()),
                _ => 0,
            };
            used.push((buffer.head, written as u32));
            rest = later;
        }
        give_back_at_once(self.active, RECEIVE, &used)?;
        Ok(buffers)
    }

    fn transmit(&mut self) -> Result<()> {
        let memory = self.active.memory.clone();
        while self.sending.is_open()?
            && let Some(chain) = self.active.pop(TRANSMIT, &memory)?
        {
            let head = chain.head_index();
            let pieces: Option<Vec<_>> = chain
                .readable()
                .map(|piece| memory.get_slice(piece.addr(), piece.len() as usize).ok())
                .collect();
            if let Some(pieces) = pieces {
                let length = pieces.iter().map(|piece| piece.len() as u64).sum();
                self.sending.count(length);
                self.traffic.outgoing(payload(length));
                send(self.tap, &pieces);
            }
            self.active.give_back(TRANSMIT, head, 0)?;
        }
        self.active.notify_driver(TRANSMIT)
    }
}

/// Bytes of a packet without its header.
fn payload(length: u64) -> u64 {
    length.saturating_sub(HEADER_SIZE as u64)
}

/// Gives a packet to the tap; one whose queue is full drops it, as a wire would.
fn send(tap: &File, pieces: &[vm_memory::VolatileSlice<'_>]) {
    let length = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len()));
    if length > PACKET_MAX {
        return;
    }
    let vectors: Vec<_> = pieces
        .iter()
        .map(|piece| libc::iovec { iov_base: piece.ptr_guard_mut().as_ptr().cast(), iov_len: piece.len() })
        .collect();
    let count = libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the vectors name slices of guest memory, which is mapped as long as they live; the kernel only reads.
    unsafe { libc::writev(tap.as_raw_fd(), vectors.as_ptr(), count) };
}

/// Gives several buffers back so that the driver sees all of them or none (virtio 1.2 §5.1.6.4): a packet may be
/// spread over them.
fn give_back_at_once(active: &mut Active, index: usize, used: &[(u16, u32)]) -> Result<()> {
    let Some(((head, written), earlier)) = used.split_last() else { return Ok(()) };
    let queue = &mut active.queues[index];
    let first = queue.next_used();
    for (offset, (head, written)) in (0u16..).zip(earlier) {
        let slot = u64::from(first.wrapping_add(offset) % queue.size());
        let element = GuestAddress(queue.used_ring() + USED_ELEMENTS + slot * USED_ELEMENT);
        write_element(&active.memory, element, *head, *written)?;
    }
    queue.set_next_used(first.wrapping_add(earlier.len() as u16));
    active.give_back(index, *head, *written)
}

fn write_element(memory: &Memory, address: GuestAddress, head: u16, written: u32) -> Result<()> {
    let element = u64::from(written) << 32 | u64::from(head);
    memory.write_slice(&element.to_le_bytes(), address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
    use crate::hardware::event_fd;
    use crate::virtio::Interrupt;

    const BUFFERS: u64 = 0x10_0000;

    /// Delivers a packet of `length` bytes into `count` buffers of `size`; gives `deliver`'s word, the index of the
    /// used ring, the length of each element, and the first buffer.
    fn deliver(mergeable: bool, length: usize, (count, size): (u16, u32)) -> (u16, u16, Vec<u32>, Vec<u8>) {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        let flags = VRING_DESC_F_WRITE as u16;
        let descriptors: Vec<_> = (0..count)
            .map(|n| {
                let address = BUFFERS + u64::from(n) * u64::from(size);
                RawDescriptor::from(Descriptor::new(address, size, flags, 0))
            })
            .collect();
        if count > 0 {
            mock.add_desc_chains(&descriptors, 0).unwrap();
        }
        let mut active = Active {
            memory: memory.clone(),
            queues: vec![mock.create_queue().unwrap()],
            notifications: Vec::new(),
            interrupt: Interrupt::new(event_fd().unwrap()),
            features: 0,
            stop: event_fd().unwrap(),
        };
        let (socket, _) = UnixDatagram::pair().unwrap();
        let traffic = TrafficCounter::default();
        let mut tap = File::from(std::os::fd::OwnedFd::from(socket));
        let mut server = Server::new(&mut tap, &mut active, RateLimit::default(), &traffic).unwrap();
        server.mergeable = mergeable;
        server.buffer = (0..PACKET_MAX).map(|n| n as u8).collect();
        let buffers = server.deliver(length).unwrap();
        let used = active.queues[0].used_ring();
        let index = memory.read_obj::<u16>(GuestAddress(used + 2)).unwrap();
        let lengths = (0..u64::from(index)).map(|n| memory.read_obj(GuestAddress(used + 8 + n * 8)).unwrap());
        let mut first = vec![0; 16];
        memory.read_slice(&mut first, GuestAddress(BUFFERS)).unwrap();
        (buffers, index, lengths.collect(), first)
    }

    #[test]
    fn a_packet_is_spread_over_as_many_buffers_as_it_needs() {
        let (buffers, index, lengths, first) = deliver(true, 2500, (8, 1000));
        assert_eq!((buffers, index, lengths), (3, 3, vec![1000, 1000, 500]));
        assert_eq!(first[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 0]);
    }

    #[test]
    fn a_packet_waits_until_there_are_buffers_enough() {
        assert_eq!(deliver(true, 2500, (2, 1000)).0, 0);
        assert_eq!(deliver(true, 2500, (0, 1000)).1, 0);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_dropped_where_it_cannot_be_spread() {
        let (buffers, index, lengths, _) = deliver(false, 2500, (8, 1000));
        assert_eq!((buffers, index, lengths), (1, 1, vec![0]));
    }
}
