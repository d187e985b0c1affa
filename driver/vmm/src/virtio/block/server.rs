use std::collections::HashMap;
use std::os::fd::AsRawFd;

use io_uring::{opcode, types};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;

use super::disk::Disk;
use super::patience::Patience;
use super::request::{Extent, Operation, Piece, Request, SECTOR};
use super::ring::Ring;
use super::stalled::{Stalled, had_no_room};
use crate::Result;
use crate::config::DiskAccess;
use crate::memory::Memory;
use crate::virtio::poll::{Poll, drain};
use crate::virtio::throttle::Throttle;
use crate::virtio::{Active, TrafficCounter};

/// Most chains of the queue.
pub const QUEUE_SIZE: u16 = 128;
const QUEUE: u64 = 0;
const STOP: u64 = 1;
const COMPLETIONS: u64 = 2;
const THROTTLE: u64 = 3;
const STALLED: u64 = 4;
/// Most bytes that the kernel reads or writes at one time, `MAX_RW_COUNT`: no driver needs more.
const TRANSFER_MAX: u64 = 0x7fff_f000;

/// Whether a request is done for the first time, or again because there was no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Again,
}

/// A request in the kernel's hands, with the vector that the kernel reads.
struct InFlight {
    request: Request,
    attempt: Attempt,
    _vectors: Vec<libc::iovec>,
}

/// The worker's state while a driver is active.
pub struct Server<'a> {
    disk: &'a Disk,
    traffic: &'a TrafficCounter,
    active: &'a mut Active,
    ring: &'a mut Ring,
    throttle: Throttle,
    in_flight: HashMap<u64, InFlight>,
    stalled: Stalled,
}

impl<'a> Server<'a> {
    /// Serves a disk with this ring.
    pub fn new(
        disk: &'a Disk,
        active: &'a mut Active,
        traffic: &'a TrafficCounter,
        patience: Patience,
        ring: &'a mut Ring,
    ) -> Result<Self> {
        let (throttle, stalled) = (Throttle::new(disk.limit)?, Stalled::new(patience)?);
        Ok(Self { disk, traffic, active, ring, throttle, in_flight: HashMap::new(), stalled })
    }

    /// Serves it until the worker is to end.
    pub fn run(mut self) -> Result<()> {
        let poll = Poll::new()?;
        poll.add(&self.active.notifications[0], QUEUE, EventSet::IN)?;
        poll.add(&self.active.stop, STOP, EventSet::IN)?;
        poll.add(self.ring.completed(), COMPLETIONS, EventSet::IN)?;
        poll.add(&self.throttle, THROTTLE, EventSet::IN)?;
        poll.add(&self.stalled, STALLED, EventSet::IN)?;
        let ended = self.serve(&poll);
        // The kernel writes into guest memory until the last request is complete, whatever ended the loop.
        while !self.in_flight.is_empty() {
            if let Err(e) = self.ring.wait().and_then(|()| self.complete()) {
                // It may still read the vectors.
                std::mem::forget(std::mem::take(&mut self.in_flight));
                return Err(e);
            }
        }
        self.fail_stalled()?;
        ended
    }

    fn fail_stalled(&mut self) -> Result<()> {
        self.stalled.take_all()?.iter().try_for_each(|request| self.finish(request, VIRTIO_BLK_S_IOERR, 0))
    }

    fn serve(&mut self, poll: &Poll) -> Result<()> {
        loop {
            for ready in poll.wait()? {
                match ready.token {
                    STOP => return Ok(()),
                    QUEUE => drain(&self.active.notifications[0]),
                    THROTTLE => {
                        self.throttle.drain()?;
                        if self.stalled.is_due() {
                            self.try_again()?;
                        }
                    }
                    STALLED => self.try_again()?,
                    _ => drain(self.ring.completed()),
                }
            }
            self.complete()?;
            self.accept()?;
        }
    }

    /// Takes requests from the queue while the ring has room and the rate allows.
    fn accept(&mut self) -> Result<()> {
        let memory = self.active.memory.clone();
        let room = usize::from(QUEUE_SIZE);
        while self.in_flight.len() + self.stalled.len() < room
            && !self.stalled.is_due()
            && self.throttle.is_open()?
        {
            let Some(chain) = self.active.pop(0, &memory)? else { break };
            let head = chain.head_index();
            match Request::parse(&memory, chain) {
                Ok(request) => {
                    self.throttle.count(request.length());
                    self.begin(request, Attempt::First)?;
                }
                Err(e) => {
                    tracing::debug!(error = %e, "a disk request is malformed");
                    self.active.give_back(0, head, 0)?;
                }
            }
        }
        self.ring.submit()?;
        self.active.notify_driver(0)
    }

    /// Does one of the stalled requests again: whether there is room is asked once a while, and at the disk's rate.
    fn try_again(&mut self) -> Result<()> {
        if self.stalled.patience_is_over() {
            return self.fail_stalled();
        }
        if !self.throttle.is_open()? {
            return self.stalled.wait();
        }
        if let Some(request) = self.stalled.pop()? {
            self.throttle.count(request.length());
            self.begin(request, Attempt::Again)?;
        }
        self.ring.submit()
    }

    fn begin(&mut self, request: Request, attempt: Attempt) -> Result<()> {
        let fd = types::Fd(self.disk.file.as_raw_fd());
        let read_only = self.disk.access == DiskAccess::ReadOnly;
        match request.operation {
            Operation::Read(offset) if self.may_transfer(offset, request.length()) => {
                let vectors = self.vectors(&request.data)?;
                let entry = opcode::Readv::new(fd, vectors.as_ptr(), vectors.len() as u32).offset(offset);
                self.submit(entry.build(), request, vectors, attempt)
            }
            Operation::Write(offset) if !read_only && self.may_transfer(offset, request.length()) => {
                let vectors = self.vectors(&request.data)?;
                let entry = opcode::Writev::new(fd, vectors.as_ptr(), vectors.len() as u32).offset(offset);
                self.submit(entry.build(), request, vectors, attempt)
            }
            Operation::Release(extent) if !read_only => {
                self.allocate(extent, libc::FALLOC_FL_PUNCH_HOLE, request, attempt)
            }
            Operation::Zero(extent) if !read_only => {
                self.allocate(extent, libc::FALLOC_FL_ZERO_RANGE, request, attempt)
            }
            Operation::Flush if read_only => self.finish(&request, VIRTIO_BLK_S_OK, 0),
            Operation::Flush => {
                let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC);
                self.submit(entry.build(), request, Vec::new(), attempt)
            }
            Operation::Serial => {
                let serial = self.disk.serial;
                let written = write_pieces(&self.active.memory, &request.data, &serial)?;
                self.finish(&request, VIRTIO_BLK_S_OK, written)
            }
            Operation::Read(_) | Operation::Write(_) | Operation::Release(_) | Operation::Zero(_) => {
                self.finish(&request, VIRTIO_BLK_S_IOERR, 0)
            }
            Operation::Unsupported => self.finish(&request, VIRTIO_BLK_S_UNSUPP, 0),
        }
    }

    /// Changes the allocation of the file's bytes, but not its size.
    fn allocate(
        &mut self,
        extent: Extent,
        mode: libc::c_int,
        request: Request,
        attempt: Attempt,
    ) -> Result<()> {
        let Extent { offset, length } = extent;
        if !self.disk.in_range(offset, length) {
            return self.finish(&request, VIRTIO_BLK_S_IOERR, 0);
        }
        let fd = types::Fd(self.disk.file.as_raw_fd());
        let entry = opcode::Fallocate::new(fd, length).offset(offset).mode(mode | libc::FALLOC_FL_KEEP_SIZE);
        self.submit(entry.build(), request, Vec::new(), attempt)
    }

    fn may_transfer(&self, offset: u64, length: u64) -> bool {
        length <= TRANSFER_MAX && self.disk.in_range(offset, length)
    }

    fn vectors(&self, pieces: &[Piece]) -> Result<Vec<libc::iovec>> {
        pieces
            .iter()
            .map(|piece| {
                let slice = self.active.memory.get_slice(piece.address, piece.length)?;
                Ok(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() })
            })
            .collect()
    }

    fn submit(
        &mut self,
        entry: io_uring::squeue::Entry,
        request: Request,
        vectors: Vec<libc::iovec>,
        attempt: Attempt,
    ) -> Result<()> {
        let id = self.ring.new_id();
        let entry = entry.user_data(id);
        self.in_flight.insert(id, InFlight { request, attempt, _vectors: vectors });
        // SAFETY: the buffers are slices of guest memory, which `self.active.memory` keeps mapped, and the vector
        // is in `in_flight`; `run` drops neither before the request is complete.
        let is_pushed = unsafe { self.ring.push(&entry) };
        if !is_pushed && let Some(lost) = self.in_flight.remove(&id) {
            return self.finish(&lost.request, VIRTIO_BLK_S_IOERR, 0);
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        for (id, result) in self.ring.results() {
            let Some(InFlight { request, attempt, .. }) = self.in_flight.remove(&id) else { continue };
            if let Some(request) = self.settle(request, attempt, result)? {
                let status = self.status(&request, attempt, result)?;
                let is_read = matches!(request.operation, Operation::Read(_)) && status == VIRTIO_BLK_S_OK;
                self.finish(&request, status, if is_read { request.length() as u32 } else { 0 })?;
            }
        }
        Ok(())
    }

    /// Keeps a request for which there was no room, and goes on with a write that was cut short, whose next result says why. Gives
    /// back any other.
    fn settle(&mut self, mut request: Request, attempt: Attempt, result: i32) -> Result<Option<Request>> {
        if self.active.stop.is_ordered() || self.stalled.patience_is_over() {
            return Ok(Some(request));
        }
        if had_no_room(request.operation, result) {
            match attempt {
                Attempt::First => self.stalled.push(request)?,
                Attempt::Again => self.stalled.push_again(request)?,
            }
            return Ok(None);
        }
        let done = u64::try_from(result).unwrap_or(0) / SECTOR * SECTOR;
        if matches!(request.operation, Operation::Write(_)) && 0 < done && done < request.length() {
            request.advance(done);
            self.traffic.outgoing(done);
            self.begin(request, attempt)?;
            return Ok(None);
        }
        Ok(Some(request))
    }

    /// What the driver is told of a result.
    fn status(&mut self, request: &Request, attempt: Attempt, result: i32) -> Result<u32> {
        let expected = match request.operation {
            Operation::Read(_) | Operation::Write(_) => request.length(),
            _ => 0,
        };
        if !u64::try_from(result).is_ok_and(|done| done == expected) {
            tracing::debug!(operation = ?request.operation, result, expected, "a disk request failed");
            // The host's file system has no holes; the driver then stops asking.
            let is_unsupported = result == -libc::EOPNOTSUPP;
            return Ok(if is_unsupported { VIRTIO_BLK_S_UNSUPP } else { VIRTIO_BLK_S_IOERR });
        }
        match request.operation {
            Operation::Read(_) => self.traffic.incoming(expected),
            Operation::Write(_) => self.traffic.outgoing(expected),
            _ => {}
        }
        if attempt == Attempt::Again {
            self.stalled.has_room()?;
        }
        Ok(VIRTIO_BLK_S_OK)
    }

    /// Writes the status and returns the buffers; `written` counts the data bytes that the device wrote.
    fn finish(&mut self, request: &Request, status: u32, written: u32) -> Result<()> {
        self.active.memory.write_obj(status as u8, request.status)?;
        self.active.give_back(0, request.head, written + 1)?;
        self.active.notify_driver(0)
    }
}

fn write_pieces(memory: &Memory, pieces: &[Piece], mut bytes: &[u8]) -> Result<u32> {
    let mut written = 0;
    for Piece { address: GuestAddress(address), length } in pieces {
        let (now, later) = bytes.split_at(bytes.len().min(*length));
        memory.write_slice(now, GuestAddress(*address))?;
        written += now.len() as u32;
        bytes = later;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use virtio_bindings::virtio_blk::{VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_T_OUT};
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
    use crate::config::RateLimit;
    use crate::event::event_fd;
    use crate::virtio::{Interrupt, Stop};

    const STATUS: GuestAddress = GuestAddress(0x30000);
    const UNTOUCHED: u8 = 0xff;
    const CAPACITY: u64 = 1 << 16;

    /// A driver that writes 4 KiB at the disk's beginning.
    fn active() -> Active {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        memory.write_obj(VIRTIO_BLK_T_OUT, GuestAddress(0x10000)).unwrap();
        memory.write_slice(&[7; 4096], GuestAddress(0x20000)).unwrap();
        memory.write_obj(UNTOUCHED, STATUS).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        let next = VRING_DESC_F_NEXT as u16;
        let chain = [
            Descriptor::new(0x10000, 16, next, 1),
            Descriptor::new(0x20000, 4096, next, 2),
            Descriptor::new(STATUS.0, 1, VRING_DESC_F_WRITE as u16, 0),
        ];
        mock.build_desc_chain(&chain.map(RawDescriptor::from)).unwrap();
        let queues = vec![mock.create_queue().unwrap()];
        let notifications = vec![event_fd().unwrap()];
        notifications[0].write(1).unwrap();
        let interrupt = Interrupt::new(event_fd().unwrap().into());
        Active {
            memory: memory.clone(),
            queues,
            notifications,
            interrupt,
            features: 0,
            stop: Stop::new().unwrap(),
        }
    }

    fn disk(file: File) -> Disk {
        let (access, limit) = (DiskAccess::ReadWrite, RateLimit::default());
        Disk { file, access, capacity: CAPACITY, serial: [0; VIRTIO_BLK_ID_BYTES as usize], limit }
    }

    /// One on a device that never has room.
    fn full_disk() -> Disk {
        disk(File::options().read(true).write(true).open("/dev/full").unwrap())
    }

    /// Gives the request to the kernel and takes its result.
    fn once<'a>(server: &mut Server<'a>, begin: fn(&mut Server<'a>) -> Result<()>) -> u8 {
        begin(server).unwrap();
        server.ring.wait().unwrap();
        server.complete().unwrap();
        server.active.memory.read_obj(STATUS).unwrap()
    }

    #[test]
    fn a_driver_waits_until_the_host_has_room() {
        let (mut active, traffic) = (active(), TrafficCounter::default());
        let mut ring = Ring::new(QUEUE_SIZE).unwrap();
        let full = full_disk();
        let mut server = Server::new(&full, &mut active, &traffic, Patience::default(), &mut ring).unwrap();
        assert_eq!(once(&mut server, Server::accept), UNTOUCHED, "it is neither done nor failed");
        assert_eq!(once(&mut server, Server::try_again), UNTOUCHED);
        let waiting = server.stalled.take_all().unwrap();
        assert_eq!(waiting.len(), 1);

        let roomy = disk(tempfile::tempfile().unwrap());
        let mut server = Server::new(&roomy, &mut active, &traffic, Patience::default(), &mut ring).unwrap();
        waiting.into_iter().try_for_each(|request| server.stalled.push(request)).unwrap();
        assert_eq!(u32::from(once(&mut server, Server::try_again)), VIRTIO_BLK_S_OK);
        assert_eq!(server.stalled.len(), 0);
        assert_eq!(roomy.file.metadata().unwrap().len(), 4096);
        assert_eq!(traffic.traffic().outgoing.bytes, 4096);
    }

    #[test]
    fn a_worker_that_must_end_waits_for_no_room() {
        let (mut active, traffic) = (active(), TrafficCounter::default());
        let mut ring = Ring::new(QUEUE_SIZE).unwrap();
        let (full, memory) = (full_disk(), active.memory.clone());
        let mut server = Server::new(&full, &mut active, &traffic, Patience::default(), &mut ring).unwrap();
        assert_eq!(once(&mut server, Server::accept), UNTOUCHED);
        server.active.stop.order().unwrap();
        server.run().unwrap();
        let status: u8 = memory.read_obj(STATUS).unwrap();
        assert_eq!(u32::from(status), VIRTIO_BLK_S_IOERR);
    }

    #[test]
    fn a_guest_that_is_to_end_waits_for_no_room() {
        let (mut active, traffic, patience) = (active(), TrafficCounter::default(), Patience::default());
        let mut ring = Ring::new(QUEUE_SIZE).unwrap();
        let full = full_disk();
        let mut server = Server::new(&full, &mut active, &traffic, patience.clone(), &mut ring).unwrap();
        assert_eq!(once(&mut server, Server::accept), UNTOUCHED);
        patience.end();
        server.try_again().unwrap();
        assert_eq!(server.stalled.len(), 0);
        let status: u8 = active.memory.read_obj(STATUS).unwrap();
        assert_eq!(u32::from(status), VIRTIO_BLK_S_IOERR);
    }

    #[test]
    fn a_stalled_request_keeps_to_the_rate() {
        let (mut active, traffic) = (active(), TrafficCounter::default());
        let mut ring = Ring::new(QUEUE_SIZE).unwrap();
        let slow = RateLimit { bytes: 1, burst_bytes: 1, ..RateLimit::default() };
        let full = Disk { limit: slow, ..full_disk() };
        let mut server = Server::new(&full, &mut active, &traffic, Patience::default(), &mut ring).unwrap();
        assert_eq!(once(&mut server, Server::accept), UNTOUCHED);
        server.try_again().unwrap();
        assert!(server.in_flight.is_empty() && server.stalled.is_due(), "4 KiB take more than an hour");
    }

    #[test]
    fn a_stalled_request_that_is_due_comes_before_the_queue() {
        let (mut active, traffic) = (active(), TrafficCounter::default());
        let mut ring = Ring::new(QUEUE_SIZE).unwrap();
        let full = full_disk();
        let mut server = Server::new(&full, &mut active, &traffic, Patience::default(), &mut ring).unwrap();
        server.stalled.wait().unwrap();
        server.accept().unwrap();
        assert!(server.in_flight.is_empty(), "it is not its turn");
        server.try_again().unwrap();
        server.accept().unwrap();
        assert_eq!(server.in_flight.len(), 1);
        server.ring.wait().unwrap();
        server.complete().unwrap();
    }
}
