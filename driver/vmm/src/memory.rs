//! Guest memory: one or two regions around the device hole below 4 GiB.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout::{MMIO_GAP_END, MMIO_GAP_START};
use crate::{Error, Result};

/// Guest memory as every part of this crate sees it.
pub type Memory = GuestMemoryMmap<()>;

/// Maps `mebibytes` of anonymous memory; pages are taken from the host as the guest touches them.
pub fn allocate(mebibytes: u64) -> Result<Memory> {
    let size = mebibytes
        .checked_mul(1 << 20)
        .ok_or_else(|| Error::Memory { mebibytes, reason: "the size does not fit 64 bits".into() })?;
    let ranges = ranges(size).into_iter().map(|(start, size)| {
        usize::try_from(size).map(|size| (GuestAddress(start), size)).map_err(|e| e.to_string())
    });
    let ranges: Vec<_> = ranges
        .collect::<std::result::Result<_, _>>()
        .map_err(|reason| Error::Memory { mebibytes, reason })?;
    Memory::from_ranges(&ranges).map_err(|e| Error::Memory { mebibytes, reason: e.to_string() })
}

/// Splits `size` bytes of memory into (start, length) ranges that leave the device hole free.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= MMIO_GAP_START {
        vec![(0, size)]
    } else {
        vec![(0, MMIO_GAP_START), (MMIO_GAP_END, size - MMIO_GAP_START)]
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
    use super::*;

    #[test]
    fn memory_leaves_the_device_hole_free() {
        assert_eq!(ranges(128 << 20), [(0, 128 << 20)]);
        assert_eq!(ranges(MMIO_GAP_START), [(0, MMIO_GAP_START)]);
        assert_eq!(ranges(4 << 30), [(0, 3 << 30), (4 << 30, 1 << 30)]);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(allocate(u64::MAX), Err(Error::Memory { .. })));
        assert!(matches!(allocate(1 << 40), Err(Error::Memory { .. })));
    }
}
