//! Parses a request in guest memory, which is untrusted.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::Memory;

/// Unit of a disk's addresses, in bytes.
pub const SECTOR: u64 = 512;
const HEADER_SIZE: usize = 16;
/// Size of `struct virtio_blk_discard_write_zeroes`.
const EXTENT_SIZE: usize = 16;

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read from this byte offset on.
    Read(u64),
    /// Write from this byte offset on.
    Write(u64),
    /// Deallocate the extent, which then reads as zeros.
    Release(Extent),
    /// Write zeros and keep the extent allocated.
    Zero(Extent),
    /// Bring earlier writes to stable storage.
    Flush,
    /// Read the serial number.
    Serial,
    /// An operation that was not offered.
    Unsupported,
}

/// Consecutive bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A piece of guest memory that lies wholly in one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Guest address.
    pub address: GuestAddress,
    /// Length in bytes.
    pub length: usize,
}

/// A request whose addresses have all been checked.
#[derive(Debug)]
pub struct Request {
    /// The chain's head, to be returned to the driver.
    pub head: u16,
    /// The operation.
    pub operation: Operation,
    /// The data buffers.
    pub data: Vec<Piece>,
    /// Address of the status byte.
    pub status: GuestAddress,
}

/// Why a chain is not a request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Malformed {
    #[error("a buffer lies outside guest memory")]
    OutsideMemory,
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    #[error("the header is too short")]
    ShortHeader,
    #[error("there is no room for the status")]
    NoStatus,
    #[error("the sector number overflows")]
    Sector,
    #[error("not one range of sectors is named")]
    Extent,
}

impl Request {
    /// Reads a request from `chain`.
    pub fn parse(memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<Self, Malformed> {
        let head = chain.head_index();
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        for descriptor in chain {
            let piece = Piece { address: descriptor.addr(), length: descriptor.len() as usize };
            if piece.length == 0 {
                continue;
            }
            memory.get_slice(piece.address, piece.length).map_err(|_| Malformed::OutsideMemory)?;
            match descriptor.is_write_only() {
                true => writable.push(piece),
                false if writable.is_empty() => readable.push(piece),
                false => return Err(Malformed::Order),
            }
        }
        let header = take(memory, &mut readable).ok_or(Malformed::ShortHeader)?;
        let status = take_status(&mut writable)?;
        let operation = match operation(header)? {
            Kind::Plain(operation) => operation,
            Kind::OfExtent(kind) => {
                let extent = take(memory, &mut readable).filter(|_| readable.is_empty());
                of_extent(kind, extent.ok_or(Malformed::Extent)?)?
            }
        };
        let data = if matches!(operation, Operation::Write(_)) { readable } else { writable };
        Ok(Self { head, operation, data, status })
    }

    /// Number of data bytes.
    pub fn length(&self) -> u64 {
        self.data.iter().map(|piece| piece.length as u64).sum()
    }

    /// Leaves out the first bytes of a write, which are done.
    pub fn advance(&mut self, done: u64) {
        if let Operation::Write(offset) = &mut self.operation {
            *offset += done;
        }
        let mut left = done;
        self.data.retain_mut(|piece| {
            let cut = left.min(piece.length as u64);
            left -= cut;
            piece.address.0 += cut;
            piece.length -= cut as usize;
            piece.length > 0
        });
    }
}

/// Takes the next `N` bytes that the driver has written; `None` if there are fewer.
fn take<const N: usize>(memory: &Memory, readable: &mut Vec<Piece>) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let piece = readable.first_mut()?;
        let length = piece.length.min(N - filled);
        memory.read_slice(&mut bytes[filled..filled + length], piece.address).ok()?;
        filled += length;
        piece.address.0 += length as u64;
        piece.length -= length;
        if piece.length == 0 {
            readable.remove(0);
        }
    }
    Some(bytes)
}

/// The status is the last writable byte.
fn take_status(writable: &mut Vec<Piece>) -> Result<GuestAddress, Malformed> {
    let last = writable.last_mut().ok_or(Malformed::NoStatus)?;
    last.length -= 1;
    let status = GuestAddress(last.address.0 + last.length as u64);
    if last.length == 0 {
        writable.pop();
    }
    Ok(status)
}

/// The operation in a header.
enum Kind {
    Plain(Operation),
    /// A range of sectors follows it.
    OfExtent(u32),
}

fn operation(header: [u8; HEADER_SIZE]) -> Result<Kind, Malformed> {
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let offset = u64::from_le_bytes(sector).checked_mul(SECTOR).ok_or(Malformed::Sector);
    Ok(Kind::Plain(match u32::from_le_bytes([a, b, c, d]) {
        VIRTIO_BLK_T_IN => Operation::Read(offset?),
        VIRTIO_BLK_T_OUT => Operation::Write(offset?),
        VIRTIO_BLK_T_FLUSH => Operation::Flush,
        VIRTIO_BLK_T_GET_ID => Operation::Serial,
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => return Ok(Kind::OfExtent(kind)),
        _ => Operation::Unsupported,
    }))
}

/// A discard or a write of zeros; the latter may permit deallocation by a flag (virtio 1.2 §5.2.6.1).
fn of_extent(kind: u32, bytes: [u8; EXTENT_SIZE]) -> Result<Operation, Malformed> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let length = u64::from(u32::from_le_bytes([n0, n1, n2, n3])) * SECTOR;
    let extent = Extent { offset: sector.checked_mul(SECTOR).ok_or(Malformed::Sector)?, length };
    Ok(match (kind, u32::from_le_bytes(flags)) {
        (VIRTIO_BLK_T_DISCARD, 0) | (VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => {
            Operation::Release(extent)
        }
        (VIRTIO_BLK_T_WRITE_ZEROES, 0) => Operation::Zero(extent),
        _ => Operation::Unsupported,
    })
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::QueueT;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;

    use super::*;

    const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    const WRITE: u16 = VRING_DESC_F_WRITE as u16;

    fn parse(type_: u32, sector: u64, buffers: &[(u64, u32, u16)]) -> Result<Request, Malformed> {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        parse_in(&memory, type_, sector, buffers)
    }

    fn parse_in(
        memory: &Memory,
        type_: u32,
        sector: u64,
        buffers: &[(u64, u32, u16)],
    ) -> Result<Request, Malformed> {
        memory.write_obj(type_, GuestAddress(0x10000)).unwrap();
        memory.write_obj(sector, GuestAddress(0x10008)).unwrap();
        let mock = MockSplitQueue::new(memory, 16);
        let last = buffers.len() - 1;
        let descriptors: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(i, (address, length, flags))| {
                let next = if i == last { 0 } else { NEXT };
                RawDescriptor::from(Descriptor::new(*address, *length, flags | next, i as u16 + 1))
            })
            .collect();
        mock.build_desc_chain(&descriptors).unwrap();
        let mut queue: virtio_queue::Queue = mock.create_queue().unwrap();
        let chain = queue.pop_descriptor_chain(memory).unwrap();
        Request::parse(memory, chain)
    }

    #[test]
    fn a_read_as_linux_sends_it() {
        let request =
            parse(VIRTIO_BLK_T_IN, 8, &[(0x10000, 16, 0), (0x20000, 4096, WRITE), (0x30000, 1, WRITE)])
                .unwrap();
        assert_eq!(request.operation, Operation::Read(4096));
        assert_eq!(request.data, [Piece { address: GuestAddress(0x20000), length: 4096 }]);
        assert_eq!((request.status, request.length()), (GuestAddress(0x30000), 4096));
    }

    #[test]
    fn header_and_status_may_share_buffers_with_data() {
        let request = parse(VIRTIO_BLK_T_OUT, 1, &[(0x10000, 16 + 512, 0), (0x30000, 1, WRITE)]).unwrap();
        assert_eq!(request.data, [Piece { address: GuestAddress(0x10010), length: 512 }]);
        let request =
            parse(VIRTIO_BLK_T_IN, 0, &[(0x10000, 7, 0), (0x10007, 9, 0), (0x20000, 513, WRITE)]).unwrap();
        assert_eq!(request.data, [Piece { address: GuestAddress(0x20000), length: 512 }]);
        assert_eq!(request.status, GuestAddress(0x20200));
    }

    #[test]
    fn a_write_goes_on_where_it_was_cut_short() {
        let buffers = [(0x10000, 16, 0), (0x20000, 4096, 0), (0x40000, 4096, 0), (0x30000, 1, WRITE)];
        let mut request = parse(VIRTIO_BLK_T_OUT, 8, &buffers).unwrap();
        request.advance(4096 + 512);
        assert_eq!(request.operation, Operation::Write(8 * SECTOR + 4096 + 512));
        assert_eq!(request.data, [Piece { address: GuestAddress(0x40200), length: 4096 - 512 }]);
    }

    /// Parses a request of this type on 8 sectors, with these flags.
    fn parse_extent(type_: u32, sector: u64, flags: u32) -> Result<Operation, Malformed> {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let extent = [&sector.to_le_bytes()[..], &8u32.to_le_bytes(), &flags.to_le_bytes()].concat();
        memory.write_slice(&extent, GuestAddress(0x20000)).unwrap();
        parse_in(&memory, type_, 0, &[(0x10000, 16, 0), (0x20000, 16, 0), (0x30000, 1, WRITE)])
            .map(|request| request.operation)
    }

    #[test]
    fn space_is_given_back_or_kept_as_the_driver_says() {
        let extent = Extent { offset: 512 * 3, length: 4096 };
        let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        assert_eq!(parse_extent(VIRTIO_BLK_T_DISCARD, 3, 0), Ok(Operation::Release(extent)));
        assert_eq!(parse_extent(VIRTIO_BLK_T_WRITE_ZEROES, 3, unmap), Ok(Operation::Release(extent)));
        assert_eq!(parse_extent(VIRTIO_BLK_T_WRITE_ZEROES, 3, 0), Ok(Operation::Zero(extent)));
        // A discard has no such flag, and there are no others.
        for (type_, flags) in [(VIRTIO_BLK_T_DISCARD, unmap), (VIRTIO_BLK_T_WRITE_ZEROES, 2)] {
            assert_eq!(parse_extent(type_, 3, flags), Ok(Operation::Unsupported));
        }
        assert_eq!(parse_extent(VIRTIO_BLK_T_DISCARD, u64::MAX, 0), Err(Malformed::Sector));
    }

    #[test]
    fn hostile_chains_are_refused() {
        let status = (0x30000, 1, WRITE);
        for (type_, sector, buffers, error) in [
            (VIRTIO_BLK_T_IN, 0, vec![(0x10000, 15, 0), status], Malformed::ShortHeader),
            (VIRTIO_BLK_T_IN, 0, vec![(0x10000, 16, 0)], Malformed::NoStatus),
            (
                VIRTIO_BLK_T_IN,
                0,
                vec![(0x10000, 16, 0), (64 << 20, 512, WRITE), status],
                Malformed::OutsideMemory,
            ),
            (
                VIRTIO_BLK_T_IN,
                0,
                vec![(0x10000, 16, 0), (u64::MAX - 8, 512, WRITE)],
                Malformed::OutsideMemory,
            ),
            (VIRTIO_BLK_T_IN, 0, vec![(0x10000, 16, 0), status, (0x20000, 512, 0)], Malformed::Order),
            (VIRTIO_BLK_T_IN, u64::MAX, vec![(0x10000, 16, 0), status], Malformed::Sector),
            (VIRTIO_BLK_T_DISCARD, 0, vec![(0x10000, 16, 0), (0x20000, 15, 0), status], Malformed::Extent),
            (VIRTIO_BLK_T_DISCARD, 0, vec![(0x10000, 16, 0), (0x20000, 32, 0), status], Malformed::Extent),
        ] {
            assert_eq!(parse(type_, sector, &buffers).unwrap_err(), error, "{buffers:?}");
        }
        let unknown = parse(77, u64::MAX, &[(0x10000, 16, 0), status]).unwrap();
        assert_eq!(unknown.operation, Operation::Unsupported);
    }
}
