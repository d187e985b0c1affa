use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;

use super::control::Control;
use super::offered::Offered;
use crate::Result;
use crate::config::RateLimit;
use crate::memory::Memory;
use crate::virtio::Active;
use crate::virtio::poll::{Poll, drain};
use crate::virtio::throttle::Throttle;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Tokens of descriptors other than queues; a queue's token is its index.
const TOKEN_TAP: u64 = 100;
const TOKEN_STOP: u64 = 101;
const TOKEN_RECEIVING: u64 = 102;
const TOKEN_SENDING: u64 = 103;

/// Size of the header and the largest packet that segmentation offload makes.
const PACKET_MAX: usize = 12 + 65550;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;
/// Size of an element of the used ring, and offset of the first one (virtio 1.2 §2.7.8).
const USED_ELEMENT: u64 = 8;
const USED_ELEMENTS: u64 = 4;

/// Moves packets between a tap and the guest. With several queue pairs, all are served for sending, and received
/// packets go to the first.
pub struct Server<'a> {
    tap: &'a File,
    active: &'a mut Active,
    control: &'a mut Control,
    /// Most buffers that one packet may be spread over.
    buffers_max: usize,
    offered: Offered,
    /// A packet, or the end of one, that did not fit the offered buffers.
    buffer: Vec<u8>,
    /// Length of the packet in `buffer` that waits for more buffers.
    held: Option<usize>,
    receiving: Throttle,
    sending: Throttle,
}

impl<'a> Server<'a> {
    /// Serves the guest's driver through `tap`, no faster than `limit`.
    pub fn new(
        tap: &'a File,
        active: &'a mut Active,
        control: &'a mut Control,
        limit: RateLimit,
    ) -> Result<Self> {
        let mergeable = active.features & (1 << VIRTIO_NET_F_MRG_RXBUF) != 0;
        let (receiving, sending) = (Throttle::new(limit)?, Throttle::new(limit)?);
        Ok(Self {
            tap,
            active,
            control,
            buffers_max: if mergeable { usize::MAX } else { 1 },
            offered: Offered::default(),
            buffer: vec![0; PACKET_MAX],
            held: None,
            receiving,
            sending,
        })
    }

    /// Serves until `active.stop` is ordered; unused buffers are then returned to the queue.
    pub fn run(&mut self) -> Result<()> {
        let poll = Poll::new()?;
        for queue in [RECEIVE].into_iter().chain(self.senders()).chain(self.control.queue) {
            poll.add(&self.active.notifications[queue], queue as u64, EventSet::IN)?;
        }
        poll.add(self.tap, TOKEN_TAP, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        poll.add(&self.active.stop, TOKEN_STOP, EventSet::IN)?;
        poll.add(&self.receiving, TOKEN_RECEIVING, EventSet::IN)?;
        poll.add(&self.sending, TOKEN_SENDING, EventSet::IN)?;
        loop {
            for ready in poll.wait()? {
                match ready.token {
                    TOKEN_STOP => {
                        self.offered.put_back(&mut self.active.queues[RECEIVE]);
                        return Ok(());
                    }
                    TOKEN_TAP => self.receive()?,
                    TOKEN_RECEIVING => {
                        self.receiving.drain()?;
                        self.receive()?;
                    }
                    TOKEN_SENDING => {
                        self.sending.drain()?;
                        self.senders().try_for_each(|queue| self.transmit(queue))?;
                    }
                    queue => self.serve_queue(queue as usize)?,
                }
            }
        }
    }

    /// The transmit queues that the driver has set up.
    fn senders(&self) -> impl Iterator<Item = usize> + use<> {
        let ready = |queue: &usize| self.active.queues[*queue].ready();
        let queues = (TRANSMIT..self.active.queues.len()).step_by(2).filter(ready);
        queues.collect::<Vec<_>>().into_iter()
    }

    fn serve_queue(&mut self, queue: usize) -> Result<()> {
        drain(&self.active.notifications[queue]);
        match queue {
            RECEIVE => self.receive(),
            queue if Some(queue) == self.control.queue => self.control.serve(self.active, |_, _| Ok(())),
            queue => self.transmit(queue),
        }
    }

    /// Moves packets from the tap to the guest until there are no more packets or buffers, or the rate is reached.
    fn receive(&mut self) -> Result<()> {
        let before = self.active.queues[RECEIVE].next_used();
        while self.receiving.is_open()?
            && let Some(length) = self.next_packet()?
        {
            let used = self.offered.take(length);
            give_back_at_once(self.active, RECEIVE, &used)?;
            self.receiving.count(length as u64);
        }
        self.active.notify_driver_since(RECEIVE, before)
    }

    /// Puts the next packet into the driver's buffers and returns its length; `None` if there is no packet or not
    /// enough room. A packet that does not fit, where packets are not spread over buffers, is dropped: its length is
    /// 0.
    fn next_packet(&mut self) -> Result<Option<usize>> {
        self.offered.top_up(self.active, RECEIVE, self.held.unwrap_or(PACKET_MAX), self.buffers_max)?;
        if self.offered.is_empty() {
            return Ok(None);
        }
        let memory = &self.active.memory;
        let length = match self.held.take() {
            Some(length) if length <= self.offered.room() => {
                self.offered.write(memory, 0, &self.buffer[..length])?;
                length
            }
            Some(length) => {
                self.held = Some(length);
                return Ok(None);
            }
            None => match self.offered.read(self.tap, &mut self.buffer) {
                Ok(length) if length <= self.offered.room() => length,
                Ok(_) if self.buffers_max == 1 => 0,
                Ok(length) => {
                    self.offered.copy_to(memory, &mut self.buffer[..length])?;
                    self.held = Some(length);
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => {
                    tracing::warn!(error = %e, "a tap cannot be read");
                    return Ok(None);
                }
            },
        };
        self.offered.write(memory, NUM_BUFFERS, &self.offered.count(length).to_le_bytes())?;
        Ok(Some(length))
    }

    fn transmit(&mut self, queue: usize) -> Result<()> {
        let memory = self.active.memory.clone();
        while self.sending.is_open()?
            && let Some(chain) = self.active.pop(queue, &memory)?
        {
            let head = chain.head_index();
            let pieces: Option<Vec<_>> = chain
                .readable()
                .map(|piece| memory.get_slice(piece.addr(), piece.len() as usize).ok())
                .collect();
            if let Some(pieces) = pieces {
                let length = pieces.iter().map(|piece| piece.len() as u64).sum();
                self.sending.count(length);
                send(self.tap, &pieces);
            }
            self.active.give_back(queue, head, 0)?;
        }
        self.active.notify_driver(queue)
    }
}

/// Sends a packet through the tap. It is dropped if the tap's queue is full.
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

/// Returns the buffers of one packet so that the driver sees all of them or none (virtio 1.2 §5.1.6.4).
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

    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
    use crate::event::event_fd;
    use crate::virtio::{Interrupt, Stop};

    const BUFFERS: u64 = 0x10_0000;
    const RING: u16 = 16;

    /// The other end of a tap, and a guest's receive queue.
    struct Guest {
        memory: Memory,
        active: Active,
        control: Control,
        wire: UnixDatagram,
        tap: File,
    }

    impl Guest {
        fn new(features: u64) -> Self {
            let memory = Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
            let active = Active {
                memory: memory.clone(),
                queues: vec![MockSplitQueue::new(&memory, RING).create_queue().unwrap()],
                notifications: Vec::new(),
                interrupt: Interrupt::new(event_fd().unwrap().into()),
                features,
                stop: Stop::new().unwrap(),
            };
            let (wire, tap) = UnixDatagram::pair().unwrap();
            tap.set_nonblocking(true).unwrap();
            let (control, tap) = (Control::new(features, 1, 1), File::from(std::os::fd::OwnedFd::from(tap)));
            Self { memory, active, control, wire, tap }
        }

        /// Offers `count` buffers of `size` bytes each.
        fn offer(&self, count: u16, size: u32) {
            let mock = MockSplitQueue::new(&self.memory, RING);
            let flags = VRING_DESC_F_WRITE as u16;
            let buffer = |n| Descriptor::new(BUFFERS + u64::from(n) * u64::from(size), size, flags, 0);
            let descriptors: Vec<_> = (0..count).map(|n| RawDescriptor::from(buffer(n))).collect();
            mock.add_desc_chains(&descriptors, 0).unwrap();
        }

        /// Lengths of the used buffers.
        fn used(&self) -> Vec<u32> {
            let used = self.active.queues[0].used_ring();
            let index = self.memory.read_obj::<u16>(GuestAddress(used + 2)).unwrap();
            let length = |n| self.memory.read_obj(GuestAddress(used + 8 + n * 8)).unwrap();
            (0..u64::from(index)).map(length).collect()
        }

        fn memory_at(&self, offset: u64, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.memory.read_slice(&mut bytes, GuestAddress(BUFFERS + offset)).unwrap();
            bytes
        }
    }

    fn server(guest: &mut Guest) -> Server<'_> {
        let Guest { tap, active, control, .. } = guest;
        Server::new(tap, active, control, RateLimit::default()).unwrap()
    }

    fn packet(length: usize) -> Vec<u8> {
        (0..length).map(|n| n as u8).collect()
    }

    const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

    #[test]
    fn a_packet_is_spread_over_as_many_buffers_as_it_needs() {
        let mut guest = Guest::new(MERGEABLE);
        guest.offer(8, 1000);
        guest.wire.send(&packet(2500)).unwrap();
        guest.wire.send(&packet(60)).unwrap();
        server(&mut guest).receive().unwrap();
        assert_eq!(guest.used(), [1000, 1000, 500, 60]);
        assert_eq!(guest.memory_at(0, 12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 0]);
        assert_eq!(guest.memory_at(1000, 1500), packet(2500)[1000..]);
        assert_eq!(guest.memory_at(3000, 12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0]);
    }

    #[test]
    fn a_packet_waits_whole_until_there_are_buffers_enough() {
        let mut guest = Guest::new(MERGEABLE);
        guest.wire.send(&packet(2500)).unwrap();
        server(&mut guest).receive().unwrap();
        assert!(guest.used().is_empty(), "there is no buffer at all");
        guest.offer(2, 1000);
        let (memory, ring) = (guest.memory.clone(), guest.active.queues[0].avail_ring());
        let mut server = server(&mut guest);
        server.receive().unwrap();
        assert_eq!(server.held, Some(2500));
        // The driver overwrites what it offered, and offers a third.
        let third = Descriptor::new(BUFFERS + 2000, 1000, VRING_DESC_F_WRITE as u16, 0);
        memory.write_obj(RawDescriptor::from(third), GuestAddress(2 * 16)).unwrap();
        memory.write_obj(2u16, GuestAddress(ring + 4 + 2 * 2)).unwrap();
        memory.write_slice(&[0xff; 2000], GuestAddress(BUFFERS)).unwrap();
        memory.write_obj(3u16, GuestAddress(ring + 2)).unwrap();
        server.receive().unwrap();
        assert_eq!(guest.used(), [1000, 1000, 500]);
        assert_eq!(guest.memory_at(12, 2488), packet(2500)[12..]);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_dropped_where_it_cannot_be_spread() {
        let mut guest = Guest::new(0);
        guest.offer(8, 1000);
        guest.wire.send(&packet(2500)).unwrap();
        guest.wire.send(&packet(900)).unwrap();
        server(&mut guest).receive().unwrap();
        assert_eq!(guest.used(), [0, 900]);
    }

    #[test]
    fn a_buffer_in_more_pieces_than_the_kernel_takes_holds_what_its_first_ones_hold() {
        const PIECES: u16 = 1500;
        let mut guest = Guest::new(MERGEABLE);
        let mock = MockSplitQueue::new(&guest.memory, 2048);
        guest.active.queues = vec![mock.create_queue().unwrap()];
        let descriptors: Vec<_> = (0..PIECES)
            .map(|n| {
                let last = if n + 1 == PIECES { 0 } else { VRING_DESC_F_NEXT as u16 };
                let flags = VRING_DESC_F_WRITE as u16 | last;
                RawDescriptor::from(Descriptor::new(BUFFERS + u64::from(n), 1, flags, n + 1))
            })
            .collect();
        mock.build_desc_chain(&descriptors).unwrap();
        guest.wire.send(&packet(900)).unwrap();
        server(&mut guest).receive().unwrap();
        assert_eq!(guest.used(), [900]);
        assert_eq!(guest.memory_at(12, 888), packet(900)[12..]);
    }

    #[test]
    fn buffers_that_were_not_used_are_still_the_drivers() {
        let mut guest = Guest::new(MERGEABLE);
        guest.offer(8, 1000);
        guest.wire.send(&packet(2500)).unwrap();
        let mut server = server(&mut guest);
        server.receive().unwrap();
        server.offered.put_back(&mut server.active.queues[RECEIVE]);
        assert_eq!(guest.active.queues[RECEIVE].next_avail(), 3);
    }
}
