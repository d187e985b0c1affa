//! The serialised state of a vCPU.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// `IA32_TSC_DEADLINE`: set last, since writing it starts the timer that the other registers configure.
const TSC_DEADLINE: u32 = 0x6e0;
/// Number of registers read or written by one call.
const REGISTERS_AT_ONCE: usize = 64;
/// Size of `kvm_xsave`, which holds all state except dynamically enabled features.
const XSAVE_SIZE: i32 = 4096;

/// The state that KVM keeps for a vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

/// Indices of the model-specific registers that this host can save.
pub fn model_specific_registers(kvm: &Kvm) -> Result<Vec<u32>> {
    if kvm.check_extension_int(Cap::Xsave2) > XSAVE_SIZE {
        return Err(Error::Snapshot("this host's vCPUs have more state than can be saved".into()));
    }
    let list = kvm.get_msr_index_list().map_err(Error::kvm("list the model-specific registers"))?;
    Ok(list.as_slice().to_vec())
}

/// Reads the state of a vCPU that is not running.
pub fn save(vcpu: &mut VcpuFd, registers: &[u32]) -> Result<VcpuState> {
    finish_access(vcpu)?;
    let read = Error::kvm;
    Ok(VcpuState {
        mp_state: vcpu.get_mp_state().map_err(read("read a vCPU's run state"))?,
        regs: vcpu.get_regs().map_err(read("read a vCPU's registers"))?,
        sregs: vcpu.get_sregs().map_err(read("read a vCPU's segments"))?,
        xsave: Box::new(vcpu.get_xsave().map_err(read("read a vCPU's extended state"))?),
        xcrs: vcpu.get_xcrs().map_err(read("read a vCPU's extended control registers"))?,
        debug: vcpu.get_debug_regs().map_err(read("read a vCPU's debug registers"))?,
        lapic: vcpu.get_lapic().map_err(read("read a local APIC"))?,
        msrs: read_registers(vcpu, registers)?,
        events: vcpu.get_vcpu_events().map_err(read("read a vCPU's events"))?,
    })
}

/// Makes KVM complete the access for which the guest exited, without entering the guest.
fn finish_access(vcpu: &mut VcpuFd) -> Result<()> {
    vcpu.set_kvm_immediate_exit(1);
    let left = vcpu.run().map(|_| ());
    vcpu.set_kvm_immediate_exit(0);
    match left {
        Err(e) if e.errno() != libc::EINTR && e.errno() != libc::EAGAIN => {
            Err(Error::kvm("finish a vCPU's access")(e))
        }
        _ => Ok(()),
    }
}

/// Reads model-specific registers. KVM stops at one that this host cannot read; such registers are left out.
fn read_registers(vcpu: &VcpuFd, registers: &[u32]) -> Result<Vec<kvm_msr_entry>> {
    let mut found = Vec::with_capacity(registers.len());
    let mut rest = registers;
    while !rest.is_empty() {
        let now = &rest[..rest.len().min(REGISTERS_AT_ONCE)];
        let entries: Vec<_> =
            now.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries)
            .map_err(|e| Error::Snapshot(format!("registers cannot be listed: {e:?}")))?;
        let read = vcpu.get_msrs(&mut msrs).map_err(Error::kvm("read model-specific registers"))?;
        found.extend_from_slice(&msrs.as_slice()[..read]);
        let skipped = usize::from(read < now.len());
        rest = &rest[read + skipped..];
    }
    Ok(found)
}

/// Restores `state` on a new vCPU, whose CPUID is set.
pub fn restore(vcpu: &VcpuFd, state: &VcpuState) -> Result<()> {
    let write = Error::kvm;
    vcpu.set_mp_state(state.mp_state).map_err(write("set a vCPU's run state"))?;
    vcpu.set_regs(&state.regs).map_err(write("set a vCPU's registers"))?;
    vcpu.set_sregs(&state.sregs).map_err(write("set a vCPU's segments"))?;
    // SAFETY: no dynamically enabled state is in use, so that the kernel reads no more than the structure.
    unsafe { vcpu.set_xsave(&state.xsave) }.map_err(write("set a vCPU's extended state"))?;
    vcpu.set_xcrs(&state.xcrs).map_err(write("set a vCPU's extended control registers"))?;
    vcpu.set_debug_regs(&state.debug).map_err(write("set a vCPU's debug registers"))?;
    vcpu.set_lapic(&state.lapic).map_err(write("set a local APIC"))?;
    let (last, first): (Vec<_>, Vec<_>) = state.msrs.iter().partition(|entry| entry.index == TSC_DEADLINE);
    write_registers(vcpu, &first)?;
    write_registers(vcpu, &last)?;
    vcpu.set_vcpu_events(&state.events).map_err(write("set a vCPU's events"))
}

/// Writes model-specific registers. A register that KVM refuses keeps a new vCPU's value, which is an error unless the
/// saved value is zero.
fn write_registers(vcpu: &VcpuFd, registers: &[kvm_msr_entry]) -> Result<()> {
    let mut rest = registers;
    while !rest.is_empty() {
        let now = &rest[..rest.len().min(REGISTERS_AT_ONCE)];
        let msrs = Msrs::from_entries(now)
            .map_err(|e| Error::Snapshot(format!("registers cannot be listed: {e:?}")))?;
        let written = vcpu.set_msrs(&msrs).map_err(Error::kvm("set model-specific registers"))?;
        if let Some(refused) = now.get(written)
            && refused.data != 0
        {
            return Err(Error::Snapshot(format!("register {:#x} cannot be set", refused.index)));
        }
        let skipped = usize::from(written < now.len());
        rest = &rest[written + skipped..];
    }
    Ok(())
}
