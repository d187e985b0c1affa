//! The PVH boot protocol (Xen's `docs/misc/pvh.pandoc`): the kernel is entered in 32-bit protected mode without
//! paging, and finds its memory map, command line and initial RAM disk through one structure.

use std::ffi::CString;
use std::io::Cursor;
use std::path::Path;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::mapped::MappedFile;
use super::parameters;
use crate::config::BootConfig;
use crate::layout::{
    COMMAND_LINE, COMMAND_LINE_MAX, HIGH_MEMORY, MMIO_GAP_START, MP_TABLE, PVH_MEMORY_MAP, PVH_MODULES,
    PVH_START_INFO,
};
use crate::memory::Memory;
use crate::{Error, Result};

const START_INFO_MAGIC: u32 = 0x336e_c578;
const START_INFO_VERSION: u32 = 1;
const MAP_RAM: u32 = 1;
const PAGE: u64 = 4096;

/// The initial registers of the boot CPU.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The kernel's 32-bit PVH entry point.
    pub instruction: u64,
    /// Address of the start information, expected in `EBX`.
    pub start_info: u64,
}

/// Loads kernel, initial RAM disk and command line, and writes the start information. The kernel is told of `devices` by
/// as many parameters `virtio_mmio.device`.
pub fn load(memory: &Memory, config: &BootConfig, command_line: &str, devices: &[String]) -> Result<Entry> {
    let instruction = load_kernel(memory, &config.kernel)?;
    let initrd = load_initrd(memory, &config.initrd, devices)?;
    write_command_line(memory, &format!("{command_line} {}", parameters::ARGUMENT))?;
    write_start_info(memory, initrd)?;
    Ok(Entry { instruction: instruction.0, start_info: PVH_START_INFO.0 })
}

fn load_kernel(memory: &Memory, path: &Path) -> Result<GuestAddress> {
    let mut file = Cursor::new(MappedFile::open(path)?);
    let unusable = |reason: String| Error::Kernel { path: path.to_owned(), reason };
    let loaded =
        Elf::load(memory, None, &mut file, Some(HIGH_MEMORY)).map_err(|e| unusable(e.to_string()))?;
    match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Ok(entry),
        _ => Err(unusable("it has no PVH entry point (CONFIG_PVH)".into())),
    }
}

/// Loads the initial RAM disk, and what tells the kernel of `devices`, as high as possible below the device hole, away from the kernel.
fn load_initrd(memory: &Memory, path: &Path, devices: &[String]) -> Result<(GuestAddress, u64)> {
    let file = MappedFile::open(path)?;
    let trailer = parameters::trailer(file.as_ref().len(), "virtio_mmio.device", devices);
    let size = (file.as_ref().len() + trailer.len()) as u64;
    let top = memory.find_region(HIGH_MEMORY).map_or(0, |region| region.len()).min(MMIO_GAP_START);
    let start = top.checked_sub(size).map(|start| start & !(PAGE - 1)).filter(|start| *start > HIGH_MEMORY.0);
    let Some(start) = start else {
        return Err(Error::Config(format!("an initial RAM disk of {size} bytes does not fit guest memory")));
    };
    let address = GuestAddress(start);
    memory.write_slice(file.as_ref(), address)?;
    memory.write_slice(&trailer, GuestAddress(start + file.as_ref().len() as u64))?;
    Ok((address, size))
}

fn write_command_line(memory: &Memory, command_line: &str) -> Result<()> {
    let text = CString::new(command_line)
        .map_err(|_| Error::Config("the kernel command line contains a zero byte".into()))?;
    let bytes = text.as_bytes_with_nul();
    if bytes.len() > COMMAND_LINE_MAX {
        return Err(Error::Config(format!(
            "the kernel command line has {} bytes; the limit is {COMMAND_LINE_MAX}",
            bytes.len()
        )));
    }
    memory.write_slice(bytes, COMMAND_LINE)?;
    Ok(())
}

fn write_start_info(memory: &Memory, (initrd, initrd_size): (GuestAddress, u64)) -> Result<()> {
    let map = memory_map(memory);
    let module = hvm_modlist_entry { paddr: initrd.0, size: initrd_size, ..Default::default() };
    let start_info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: START_INFO_VERSION,
        nr_modules: 1,
        modlist_paddr: PVH_MODULES.0,
        cmdline_paddr: COMMAND_LINE.0,
        memmap_paddr: PVH_MEMORY_MAP.0,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new::<hvm_start_info>(&start_info, PVH_START_INFO);
    params.set_sections::<hvm_memmap_table_entry>(&map, PVH_MEMORY_MAP);
    params.set_modules::<hvm_modlist_entry>(&[module], PVH_MODULES);
    PvhBootConfigurator::write_bootparams(&params, memory)
        .map_err(|e| Error::Config(format!("the boot parameters cannot be written: {e}")))
}

/// RAM without the legacy hole between 640 KiB and 1 MiB and without the MP table below it.
fn memory_map(memory: &Memory) -> Vec<hvm_memmap_table_entry> {
    let ram = |addr, end: u64| hvm_memmap_table_entry { addr, size: end - addr, type_: MAP_RAM, reserved: 0 };
    let mut map = vec![ram(0, MP_TABLE.0)];
    for region in memory.iter() {
        let start = region.start_addr().0.max(HIGH_MEMORY.0);
        map.push(ram(start, region.start_addr().0 + region.len()));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Content, GuestRam};

    fn guest() -> GuestRam {
        GuestRam::map(64, None, Content::Zeros).unwrap()
    }

    #[test]
    fn the_map_has_no_legacy_hole() {
        let map: Vec<_> = memory_map(guest().memory()).iter().map(|e| (e.addr, e.addr + e.size)).collect();
        assert_eq!(map, [(0, 0x9_fc00), (0x10_0000, 64 << 20)]);
    }

    #[test]
    fn a_kernel_that_is_none_is_named() {
        let guest = guest();
        let memory = guest.memory();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not a kernel").unwrap();
        let error = load_kernel(memory, file.path()).unwrap_err();
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
        assert!(matches!(load_kernel(memory, Path::new("/nonexistent")), Err(Error::Open { .. })));
    }

    #[test]
    fn an_initrd_larger_than_memory_is_refused() {
        let guest = guest();
        let memory = guest.memory();
        let file = tempfile::tempfile().unwrap();
        file.set_len(128 << 20).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        assert!(matches!(load_initrd(memory, Path::new(&path), &[]), Err(Error::Config(_))));
    }

    #[test]
    fn a_long_command_line_is_refused() {
        let guest = guest();
        let memory = guest.memory();
        assert!(write_command_line(memory, &"x".repeat(COMMAND_LINE_MAX - 1)).is_ok());
        assert!(write_command_line(memory, &"x".repeat(COMMAND_LINE_MAX)).is_err());
        assert!(write_command_line(memory, "a\0b").is_err());
    }
}
