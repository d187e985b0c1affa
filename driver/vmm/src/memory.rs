//! Guest memory: one or two regions around the device hole below 4 GiB.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use crate::layout::{MMIO_GAP_END, MMIO_GAP_START};
use crate::{Error, Result};

/// Guest memory, as used throughout this crate.
pub type Memory = GuestMemoryMmap<()>;

const PAGE: u64 = 4096;
/// Size of a huge page. KVM maps one only where host and guest addresses are equal modulo this size.
const HUGE_PAGE: usize = 2 << 20;
/// Unit in which Linux on x86-64 adds memory, in bytes.
const MEMORY_BLOCK: u64 = 128 << 20;
const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_NORESERVE;

/// A guest-physical address range for memory that is added and removed while the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Growth {
    /// The range by which a guest of `mebibytes` can grow to `most` MiB; `None` if that is not more.
    pub fn between(mebibytes: u64, most: u64) -> Option<Self> {
        let more = most.checked_sub(mebibytes)?.checked_mul(1 << 20)?.next_multiple_of(MEMORY_BLOCK);
        let (start, length) = *ranges(mebibytes.checked_mul(1 << 20)?).last()?;
        let start = (start + length).max(MMIO_GAP_END).next_multiple_of(MEMORY_BLOCK);
        (more > 0 && start.checked_add(more).is_some()).then_some(Self { start, size: more })
    }
}

/// The initial content of guest memory.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Zeros, in huge pages where the host has them.
    Zeros,
    /// A private copy of the file, region after region from its start.
    Copy(&'a File),
}

/// The mappings of a guest's memory in address order, the range for growth last. They are unmapped on drop, when no
/// clone of `memory` may be in use any more.
pub struct GuestRam {
    memory: Memory,
    initial: Memory,
    _mappings: Vec<Mapping>,
}

impl GuestRam {
    /// Maps `mebibytes` of memory and the range for growth; the host allocates pages as the guest touches them.
    pub fn map(mebibytes: u64, growth: Option<Growth>, content: Content<'_>) -> Result<Self> {
        let impossible = |reason: String| Error::Memory { mebibytes, reason };
        let size = mebibytes
            .checked_mul(1 << 20)
            .ok_or_else(|| impossible("the size does not fit 64 bits".into()))?;
        let mut offset = 0;
        let (mut regions, mut mappings) = (Vec::new(), Vec::new());
        let first = ranges(size).into_iter().map(|(start, size)| (start, size, content));
        let later = growth.map(|growth| (growth.start, growth.size, Content::Zeros));
        for (start, size, content) in first.chain(later) {
            let length = usize::try_from(size).map_err(|e| impossible(e.to_string()))?;
            let mapping = Mapping::new(length, content, offset).map_err(|e| impossible(e.to_string()))?;
            let region = mapping.region(start).ok_or_else(|| impossible("its addresses overflow".into()))?;
            regions.push(Arc::new(region));
            mappings.push(mapping);
            offset += size;
        }
        let initial = regions[..regions.len() - usize::from(growth.is_some())].to_vec();
        let memory = |regions| Memory::from_arc_regions(regions).map_err(|e| impossible(e.to_string()));
        Ok(Self { memory: memory(regions)?, initial: memory(initial)?, _mappings: mappings })
    }

    /// All memory. Clones must not be used after `self` is dropped.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The memory without the range for growth.
    pub fn initial(&self) -> &Memory {
        &self.initial
    }
}

/// A mapping in this process that begins at a huge page boundary.
struct Mapping {
    reserved: *mut libc::c_void,
    reserved_length: usize,
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: the pointers name a range that belongs to this value alone; they are read only to make a region and to
// unmap.
unsafe impl Send for Mapping {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(length: usize, content: Content<'_>, offset: u64) -> io::Result<Self> {
        let reserved_length = length.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::InvalidInput)?;
        let reserving = FLAGS | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let reserved =
            unsafe { libc::mmap(ptr::null_mut(), reserved_length, libc::PROT_NONE, reserving, -1, 0) };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = reserved.wrapping_byte_add(reserved.align_offset(HUGE_PAGE));
        let mapping = Self { reserved, reserved_length, start, length };
        mapping.fill(content, offset)?;
        Ok(mapping)
    }

    fn fill(&self, content: Content<'_>, offset: u64) -> io::Result<()> {
        let (flags, fd) = match content {
            Content::Zeros => (libc::MAP_ANONYMOUS, -1),
            Content::Copy(file) => (0, file.as_raw_fd()),
        };
        let offset = offset.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the range lies within the reservation, which nobody else uses, so that replacing it is harmless.
        let mapped = unsafe {
            libc::mmap(self.start, self.length, PROTECTION, FLAGS | flags | libc::MAP_FIXED, fd, offset)
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if matches!(content, Content::Zeros) {
            // SAFETY: advice on a range of our own. A kernel without huge pages refuses it, which costs only time.
            unsafe { libc::madvise(self.start, self.length, libc::MADV_HUGEPAGE) };
        }
        Ok(())
    }

    fn region(&self, start: u64) -> Option<GuestRegionMmap<()>> {
        // SAFETY: the range was mapped by `fill` with these protections and flags, and `GuestRam` keeps it mapped as
        // long as the region is in use.
        let region =
            unsafe { MmapRegion::build_raw(self.start.cast(), self.length, PROTECTION, FLAGS) }.ok()?;
        GuestRegionMmap::new(region, GuestAddress(start))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and nothing uses it any more when its owner goes.
        unsafe { libc::munmap(self.reserved, self.reserved_length) };
    }
}

/// Splits `size` bytes of memory into (start, length) ranges that leave the device hole free.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= MMIO_GAP_START {
        vec![(0, size)]
    } else {
        vec![(0, MMIO_GAP_START), (MMIO_GAP_END, size - MMIO_GAP_START)]
    }
}

/// Returns whole pages to the host. They then read as zeros. Fails unless address and length are multiples of a page.
pub fn discard(memory: &Memory, address: GuestAddress, length: u64) -> Result<()> {
    if !address.0.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) || length == 0 {
        return Err(Error::Config(format!("{length} bytes at {:#x} are no whole pages", address.0)));
    }
    let slice = memory.get_slice(address, usize::try_from(length).unwrap_or(usize::MAX))?;
    let start = slice.ptr_guard_mut().as_ptr().cast();
    // SAFETY: the range lies in one region of guest memory, which `memory` keeps mapped. Nothing but guest memory is
    // in it, whose content may change at any time; no reference to it exists.
    let status = unsafe { libc::madvise(start, slice.len(), libc::MADV_DONTNEED) };
    match status {
        0 => Ok(()),
        _ => Err(Error::io("give memory back")(std::io::Error::last_os_error())),
    }
}

/// Makes `memory` the physical memory of `vm`.
pub fn register(vm: &VmFd, memory: &Memory) -> Result<()> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let kvm_region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is a live mapping of the length given; the machine keeps `memory` until its VM is
        // closed, and slots do not overlap because `ranges` does not.
        unsafe { vm.set_user_memory_region(kvm_region) }.map_err(Error::kvm("give memory to the guest"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn memory_leaves_the_device_hole_free() {
        assert_eq!(ranges(128 << 20), [(0, 128 << 20)]);
        assert_eq!(ranges(MMIO_GAP_START), [(0, MMIO_GAP_START)]);
        assert_eq!(ranges(4 << 30), [(0, 3 << 30), (4 << 30, 1 << 30)]);
    }

    #[test]
    fn memory_grows_above_all_that_is_there_from_the_start() {
        let (mib, gib) = (1 << 20, 1 << 30);
        assert_eq!(Growth::between(256, 256), None);
        assert_eq!(Growth::between(256, 255), None);
        assert_eq!(Growth::between(256, 300), Some(Growth { start: 4 * gib, size: 128 * mib }));
        assert_eq!(Growth::between(3100, 4124), Some(Growth { start: 4 * gib + 128 * mib, size: gib }));
        assert_eq!(Growth::between(1, u64::MAX), None);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(GuestRam::map(u64::MAX, None, Content::Zeros), Err(Error::Memory { .. })));
        assert!(matches!(GuestRam::map(1 << 40, None, Content::Zeros), Err(Error::Memory { .. })));
    }

    #[test]
    fn host_and_guest_addresses_agree_on_huge_pages() {
        let ram = GuestRam::map(64, None, Content::Zeros).unwrap();
        let region = ram.memory().iter().next().unwrap();
        assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0);
    }

    #[test]
    fn what_a_guest_writes_does_not_reach_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        file.set_len(64 << 20).unwrap();
        let ram = GuestRam::map(64, None, Content::Copy(&file)).unwrap();
        ram.memory().write_obj(1u8, GuestAddress(1)).unwrap();
        let other = GuestRam::map(64, None, Content::Copy(&file)).unwrap();
        let read = |ram: &GuestRam| ram.memory().read_obj::<[u8; 2]>(GuestAddress(0)).unwrap();
        assert_eq!((read(&ram), read(&other)), ([7, 1], [7, 7]));
    }
}
