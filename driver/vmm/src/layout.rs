//! The guest's physical address space, interrupt lines and ports.

use vm_memory::GuestAddress;

/// Most vCPUs of a machine: the number that one MP table of 1 KiB can describe.
pub const MAX_VCPUS: u8 = 32;
/// Least memory with which the guest kernel and agent start, in MiB.
pub const MIN_MEMORY_MIB: u64 = 64;

/// The PVH start information.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// The start information's list of modules.
pub const PVH_MODULES: GuestAddress = GuestAddress(0x6040);
/// The start information's memory map.
pub const PVH_MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
/// The kernel's command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Largest command line including its final zero; x86 Linux's own limit.
pub const COMMAND_LINE_MAX: usize = 2048;
/// The last KiB below 640 KiB, where Linux looks for an MP table.
pub const MP_TABLE: GuestAddress = GuestAddress(0x9_fc00);
/// Start of memory above the legacy hole; the kernel lies above it.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);

/// Start of the hole below 4 GiB for devices and interrupt controllers.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// End of the hole.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// First register window of a virtio-mmio device.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Distance between two windows, and the size of each.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// First interrupt line of a virtio device; the lines below belong to ISA devices.
pub const VIRTIO_IRQ_BASE: u32 = 5;
/// Number of I/O APIC inputs.
pub const IOAPIC_PINS: u32 = 24;
/// Interrupt lines of virtio devices. More devices than lines share these.
pub const VIRTIO_LINES: usize = (IOAPIC_PINS - VIRTIO_IRQ_BASE) as usize;
/// Most queue pairs of an interface.
pub const MAX_QUEUE_PAIRS: u8 = 8;
/// Most virtio devices.
pub const MAX_VIRTIO_DEVICES: usize = 64;

/// Three pages that KVM on Intel uses for real-mode emulation.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Interrupt line of the first serial port.
pub const SERIAL_IRQ: u32 = 4;
/// Command port of the keyboard controller, through which x86 Linux resets a machine.
pub const RESET_PORT: u16 = 0x64;
