use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;

use io_uring::{opcode, types};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;

use super::request::{Extent, Operation, Piece, Request, SECTOR};
use super::ring::Ring;
use super::stalled::Stalled;
use crate::config::{DiskAccess, DiskConfig, RateLimit};
use crate::memory::Memory;
use crate::virtio::poll::{Poll, drain};
use crate::virtio::throttle::Throttle;
use crate::virtio::{Active, ConfigSpace, TrafficCounter, VirtioDevice};
use crate::{Error, Result};

const QUEUE_SIZE: u16 = 128;
const QUEUE: u64 = 0;
const STOP: u64 = 1;
const COMPLETIONS: u64 = 2;
const THROTTLE: u64 = 3;
const STALLED: u64 = 4;
/// Most data buffers of one request: a full chain less header and status.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors of one discard or write of zeros: 2 GiB.
const EXTENT_SECTORS: u32 = 4 << 20;
/// Offset of the number of sectors in the configuration space (virtio 1.2 §5.2.4).
const CAPACITY: usize = 0;
/// Offsets and values of the other numbers: buffers of a request; sectors, ranges and alignment of a discard; sectors
/// and ranges of a write of zeros.
const LIMITS: [(usize, u32); 6] =
    [(12, SEGMENTS), (36, EXTENT_SECTORS), (40, 1), (44, BLOCK_SECTORS), (48, EXTENT_SECTORS), (52, 1)];
/// Offset of the flag that a write of zeros may release space.
const MAY_UNMAP: usize = 56;
const CONFIG_SIZE: usize = 60;
/// Allocation unit of the host's file system, in sectors.
const BLOCK_SECTORS: u32 = 8;

/// A slot for a disk on a raw file.
pub struct Block {
    access: DiskAccess,
    disk: Option<Disk>,
    config: ConfigSpace,
    traffic: TrafficCounter,
    ring: Ring,
}

struct Disk {
    file: File,
    access: DiskAccess,
    capacity: u64,
    serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    limit: RateLimit,
}

impl Block {
    /// An empty slot: the driver sees a disk of capacity 0.
    pub fn new(access: DiskAccess) -> Result<Self> {
        let mut config = [0; CONFIG_SIZE];
        for (offset, number) in LIMITS {
            config[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        }
        config[MAY_UNMAP] = 1;
        let (config, traffic) = (ConfigSpace::new(&config), TrafficCounter::default());
        Ok(Self { access, disk: None, config, traffic, ring: Ring::new(QUEUE_SIZE)? })
    }

    /// Puts a disk into the empty slot; its traffic is counted from zero.
    pub fn insert(&mut self, disk: DiskConfig) -> Result<()> {
        if self.disk.is_some() {
            return Err(Error::Slot("it has a disk already".into()));
        }
        let disk = Disk::new(disk, self.access)?;
        self.config.set(CAPACITY, disk.capacity / SECTOR);
        self.disk = Some(disk);
        self.traffic.reset();
        Ok(())
    }

    /// Takes the disk out and closes its file.
    pub fn eject(&mut self) -> Result<()> {
        self.disk.take().ok_or_else(|| Error::Slot("it has no disk".into()))?;
        self.config.set(CAPACITY, 0);
        Ok(())
    }

    /// Counts the traffic of the disk in the slot.
    pub fn traffic(&self) -> TrafficCounter {
        self.traffic.clone()
    }
}

impl Disk {
    /// A disk with the whole sectors of its file or block device.
    fn new(mut disk: DiskConfig, access: DiskAccess) -> Result<Self> {
        let length = disk.file.seek(SeekFrom::End(0)).map_err(Error::io("measure a disk image"))?;
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        let bytes = disk.serial.as_bytes();
        let kept = bytes.len().min(serial.len());
        serial[..kept].copy_from_slice(&bytes[..kept]);
        Ok(Self { file: disk.file, access, capacity: length / SECTOR * SECTOR, serial, limit: disk.limit })
    }

    /// Whether `length` bytes from `offset` on are whole sectors of the disk.
    fn in_range(&self, offset: u64, length: u64) -> bool {
        length.is_multiple_of(SECTOR)
            && length > 0
            && offset.checked_add(length).is_some_and(|end| end <= self.capacity)
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let common = (1 << VIRTIO_BLK_F_FLUSH) | (1 << VIRTIO_BLK_F_SEG_MAX);
        match self.access {
            DiskAccess::ReadOnly => common | (1 << VIRTIO_BLK_F_RO),
            DiskAccess::ReadWrite => common | (1 << VIRTIO_BLK_F_DISCARD) | (1 << VIRTIO_BLK_F_WRITE_ZEROES),
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config_space(&self) -> ConfigSpace {
        self.config.clone()
    }

    fn is_present(&self) -> bool {
        self.disk.is_some()
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        match &self.disk {
            Some(disk) => Server::new(disk, active, &self.traffic, &mut self.ring)?.run(),
            None => Ok(()),
        }
    }
}

/// A request in the kernel's hands, with the vector that the kernel reads.
struct InFlight {
    request: Request,
    _vectors: Vec<libc::iovec>,
}

/// The worker's state while a driver is active.
struct Server<'a> {
    disk: &'a Disk,
    traffic: &'a TrafficCounter,
    active: &'a mut Active,
    ring: &'a mut Ring,
    throttle: Throttle,
    in_flight: HashMap<u64, InFlight>,
    stalled: Stalled,
}

impl<'a> Server<'a> {
    fn new(
        disk: &'a Disk,
        active: &'a mut Active,
        traffic: &'a TrafficCounter,
        ring: &'a mut Ring,
    ) -> Result<Self> {
        let (throttle, stalled) = (Throttle::new(disk.limit)?, Stalled::new()?);
        Ok(Self { disk, traffic, active, ring, throttle, in_flight: HashMap::new(), stalled })
    }

    fn run(mut self) -> Result<()> {
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
        for request in self.stalled.take()? {
            self.finish(&request, VIRTIO_BLK_S_IOERR, 0)?;
        }
        ended
    }

    fn serve(&mut self, poll: &Poll) -> Result<()> {
        loop {
            for ready in poll.wait()? {
                match ready.token {
                    STOP => return Ok(()),
                    QUEUE => drain(&self.active.notifications[0]),
                    THROTTLE => self.throttle.drain()?,
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
        while self.in_flight.len() + self.stalled.len() < room && self.throttle.is_open()? {
            let Some(chain) = self.active.pop(0, &memory)? else { break };
            let head = chain.head_index();
            match Request::parse(&memory, chain) {
                Ok(request) => {
                    self.throttle.count(request.length());
                    self.begin(request)?;
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

    fn try_again(&mut self) -> Result<()> {
        self.stalled.take()?.into_iter().try_for_each(|request| self.begin(request))?;
        self.ring.submit()
    }

    fn begin(&mut self, request: Request) -> Result<()> {
        let fd = types::Fd(self.disk.file.as_raw_fd());
        let read_only = self.disk.access == DiskAccess::ReadOnly;
        match request.operation {
            Operation::Read(offset) if self.disk.in_range(offset, request.length()) => {
                let vectors = self.vectors(&request.data)?;
                let entry = opcode::Readv::new(fd, vectors.as_ptr(), vectors.len() as u32).offset(offset);
                self.submit(entry.build(), request, vectors)
            }
            Operation::Write(offset) if !read_only && self.disk.in_range(offset, request.length()) => {
                let vectors = self.vectors(&request.data)?;
                let entry = opcode::Writev::new(fd, vectors.as_ptr(), vectors.len() as u32).offset(offset);
                self.submit(entry.build(), request, vectors)
            }
            Operation::Release(extent) if !read_only => {
                self.allocate(extent, libc::FALLOC_FL_PUNCH_HOLE, request)
            }
            Operation::Zero(extent) if !read_only => {
                self.allocate(extent, libc::FALLOC_FL_ZERO_RANGE, request)
            }
            Operation::Flush if read_only => self.finish(&request, VIRTIO_BLK_S_OK, 0),
            Operation::Flush => {
                let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC);
                self.submit(entry.build(), request, Vec::new())
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
    fn allocate(&mut self, extent: Extent, mode: libc::c_int, request: Request) -> Result<()> {
        let Extent { offset, length } = extent;
        if !self.disk.in_range(offset, length) {
            return self.finish(&request, VIRTIO_BLK_S_IOERR, 0);
        }
        let fd = types::Fd(self.disk.file.as_raw_fd());
        let entry = opcode::Fallocate::new(fd, length).offset(offset).mode(mode | libc::FALLOC_FL_KEEP_SIZE);
        self.submit(entry.build(), request, Vec::new())
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
    ) -> Result<()> {
        let id = self.ring.new_id();
        let entry = entry.user_data(id);
        self.in_flight.insert(id, InFlight { request, _vectors: vectors });
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
            let Some(InFlight { request, .. }) = self.in_flight.remove(&id) else { continue };
            let expected = match request.operation {
                Operation::Read(_) | Operation::Write(_) => request.length(),
                _ => 0,
            };
            if Stalled::has_no_room(request.operation, result, expected) {
                self.stalled.push(request)?;
                continue;
            }
            let whole = u64::try_from(result).is_ok_and(|done| done == expected);
            if !whole {
                tracing::debug!(operation = ?request.operation, result, expected, "a disk request failed");
            }
            let mut read = 0;
            match request.operation {
                Operation::Read(_) if whole => {
                    self.traffic.incoming(expected);
                    read = expected as u32;
                }
                Operation::Write(_) if whole => self.traffic.outgoing(expected),
                _ => {}
            }
            let status = match result {
                _ if whole => VIRTIO_BLK_S_OK,
                // The host's file system has no holes; the driver then stops asking.
                error if error == -libc::EOPNOTSUPP => VIRTIO_BLK_S_UNSUPP,
                _ => VIRTIO_BLK_S_IOERR,
            };
            self.finish(&request, status, read)?;
        }
        Ok(())
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
    use virtio_bindings::virtio_blk::VIRTIO_BLK_T_OUT;
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
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
        let mut server = Server::new(&full, &mut active, &traffic, &mut ring).unwrap();
        assert_eq!(once(&mut server, Server::accept), UNTOUCHED, "it is neither done nor failed");
        assert_eq!(once(&mut server, Server::try_again), UNTOUCHED);
        let waiting = server.stalled.take().unwrap();
        assert_eq!(waiting.len(), 1);

        let roomy = disk(tempfile::tempfile().unwrap());
        let mut server = Server::new(&roomy, &mut active, &traffic, &mut ring).unwrap();
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
        let mut server = Server::new(&full, &mut active, &traffic, &mut ring).unwrap();
        assert_eq!(once(&mut server, Server::accept), UNTOUCHED);
        server.active.stop.order().unwrap();
        server.run().unwrap();
        let status: u8 = memory.read_obj(STATUS).unwrap();
        assert_eq!(u32::from(status), VIRTIO_BLK_S_IOERR);
    }
}
