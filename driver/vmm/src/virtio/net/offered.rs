use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::Result;
use crate::memory::Memory;
use crate::virtio::Active;

/// Most pieces of memory that one read may fill, a little below the kernel's `IOV_MAX`.
const PIECES_MAX: usize = 1000;

/// Buffers that the driver has offered for packets, in the order in which packets fill them.
#[derive(Default)]
pub struct Offered {
    buffers: VecDeque<Buffer>,
    pieces: VecDeque<Piece>,
    /// The same pieces in the form that `readv` takes.
    vectors: VecDeque<libc::iovec>,
    room: usize,
}

/// One buffer of one or more pieces.
struct Buffer {
    head: u16,
    pieces: usize,
    room: usize,
}

/// Consecutive bytes of the guest's memory.
struct Piece {
    address: GuestAddress,
    length: usize,
}

impl Offered {
    /// Takes buffers of a queue until `bytes` fit, there are `most` buffers, or the driver offers no more.
    pub fn top_up(&mut self, active: &mut Active, queue: usize, bytes: usize, most: usize) -> Result<()> {
        let memory = active.memory.clone();
        // Buffers without room are no reason to take ever more of them.
        let most = most.min(active.queues.get(queue).map_or(0, |queue| queue.size().into()));
        while self.room < bytes && self.buffers.len() < most && self.pieces.len() < PIECES_MAX {
            let Some(chain) = active.pop(queue, &memory)? else { break };
            let mut buffer = Buffer { head: chain.head_index(), pieces: 0, room: 0 };
            // A chain's pieces beyond the limit stay empty.
            for piece in chain.writable().take(PIECES_MAX - self.pieces.len()) {
                let (address, length) = (piece.addr(), piece.len() as usize);
                // A piece outside guest memory holds nothing.
                let Ok(slice) = memory.get_slice(address, length) else { continue };
                let base = slice.ptr_guard_mut().as_ptr().cast();
                self.vectors.push_back(libc::iovec { iov_base: base, iov_len: length });
                self.pieces.push_back(Piece { address, length });
                buffer.pieces += 1;
                buffer.room += length;
            }
            self.room += buffer.room;
            self.buffers.push_back(buffer);
        }
        Ok(())
    }

    /// Size of all buffers in bytes.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Whether there are no buffers.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Reads a packet from the tap into the buffers and returns its length. Bytes that do not fit go to `overflow`, at
    /// their offset in the packet.
    pub fn read(&mut self, tap: &File, overflow: &mut [u8]) -> io::Result<usize> {
        let start = self.room.min(overflow.len());
        let rest = &mut overflow[start..];
        self.vectors.push_back(libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
        let vectors = self.vectors.make_contiguous();
        let count = libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the last vector is `rest`, which is ours alone; the others name slices of guest memory, which stays
        // mapped as long as the device is served, and which nobody here holds a reference to.
        let length = unsafe { libc::readv(tap.as_raw_fd(), vectors.as_ptr(), count) };
        self.vectors.pop_back();
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }

    /// Copies the buffers' content to the start of `packet`.
    pub fn copy_to(&self, memory: &Memory, packet: &mut [u8]) -> Result<()> {
        let mut rest = packet;
        for piece in &self.pieces {
            let (now, later) = rest.split_at_mut(rest.len().min(piece.length));
            memory.read_slice(now, piece.address)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes `bytes` into the buffers at offset `start` of the packet.
    pub fn write(&self, memory: &Memory, start: usize, bytes: &[u8]) -> Result<()> {
        let (mut skip, mut rest) = (start, bytes);
        for piece in &self.pieces {
            if rest.is_empty() {
                break;
            }
            if skip >= piece.length {
                skip -= piece.length;
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(piece.length - skip));
            memory.write_slice(now, GuestAddress(piece.address.0 + skip as u64))?;
            (skip, rest) = (0, later);
        }
        Ok(())
    }

    /// Number of buffers that a packet of `length` bytes takes, at least one.
    pub fn count(&self, length: usize) -> u16 {
        let mut held = 0;
        let enough = self.buffers.iter().position(|buffer| {
            held += buffer.room;
            held >= length
        });
        enough.map_or(self.buffers.len(), |index| index + 1) as u16
    }

    /// Removes the buffers of a packet of `length` bytes. Returns each buffer's head and the bytes filled in it.
    pub fn take(&mut self, length: usize) -> Vec<(u16, u32)> {
        let mut rest = length;
        let count = usize::from(self.count(length));
        let mut used = Vec::with_capacity(count);
        for buffer in self.buffers.drain(..count) {
            let filled = rest.min(buffer.room);
            rest -= filled;
            self.room -= buffer.room;
            self.pieces.drain(..buffer.pieces);
            self.vectors.drain(..buffer.pieces);
            used.push((buffer.head, filled as u32));
        }
        used
    }

    /// Returns the buffers to the queue as if they had never been taken.
    pub fn put_back(&mut self, queue: &mut Queue) {
        self.buffers.iter().for_each(|_| queue.go_to_previous_position());
        *self = Self::default();
    }
}
