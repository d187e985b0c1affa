//! The state in which vCPUs enter the kernel: flat 32-bit protected mode, paging off.

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::boot::Entry;
use crate::{Error, Result};

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const RFLAGS_RESERVED: u64 = 1 << 1;
const FPU_CONTROL_DEFAULT: u16 = 0x37f;
const MXCSR_DEFAULT: u32 = 0x1f80;

const LVT0_OFFSET: usize = 0x350;
const LVT1_OFFSET: usize = 0x360;
const DELIVERY_EXTINT: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;
const DELIVERY_MASK: u32 = 0x700;

/// Prepares the boot CPU to enter the kernel.
pub fn set_boot_state(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let regs = kvm_regs {
        rip: entry.instruction,
        rbx: entry.start_info,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(Error::kvm("set a vCPU's registers"))?;

    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("read a vCPU's segments"))?;
    sregs.cs = segment(0x8, 0xb);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *data = segment(0x10, 0x3);
    }
    sregs.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, selector: 0x18, ..Default::default() };
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(Error::kvm("set a vCPU's segments"))
}

/// Prepares floating point and the local APIC, the same on each vCPU.
pub fn set_common_state(vcpu: &VcpuFd) -> Result<()> {
    let fpu = kvm_fpu { fcw: FPU_CONTROL_DEFAULT, mxcsr: MXCSR_DEFAULT, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::kvm("set a vCPU's floating point"))?;

    let mut lapic = vcpu.get_lapic().map_err(Error::kvm("read a local APIC"))?;
    set_delivery(&mut lapic.regs, LVT0_OFFSET, DELIVERY_EXTINT);
    set_delivery(&mut lapic.regs, LVT1_OFFSET, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).map_err(Error::kvm("set a local APIC"))
}

fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    }
}

fn set_delivery(registers: &mut [std::os::raw::c_char], offset: usize, mode: u32) {
    let bytes: [u8; 4] = std::array::from_fn(|i| registers[offset + i] as u8);
    let value = (u32::from_le_bytes(bytes) & !DELIVERY_MASK) | mode;
    for (register, byte) in registers[offset..].iter_mut().zip(value.to_le_bytes()) {
        *register = byte as std::os::raw::c_char;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_mode_is_replaced_and_the_rest_kept() {
        let mut registers = [0 as std::os::raw::c_char; 1024];
        registers[LVT0_OFFSET + 2] = 1;
        registers[LVT0_OFFSET + 1] = 0x1;
        set_delivery(&mut registers, LVT0_OFFSET, DELIVERY_EXTINT);
        assert_eq!(registers[LVT0_OFFSET..LVT0_OFFSET + 4], [0, 7, 1, 0]);
    }
}
