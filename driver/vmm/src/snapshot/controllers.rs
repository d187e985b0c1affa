use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// The state that KVM keeps for a machine besides its vCPUs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Controllers {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
    /// The guest's clock in nanoseconds.
    clock: u64,
}

/// Reads the state of a machine that does not run.
pub fn save(vm: &VmFd) -> Result<Controllers> {
    let chip = |chip_id: u32| {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        vm.get_irqchip(&mut chip).map_err(Error::kvm("read an interrupt controller")).map(|()| chip)
    };
    Ok(Controllers {
        chips: CHIPS.into_iter().map(chip).collect::<Result<_>>()?,
        pit: vm.get_pit2().map_err(Error::kvm("read the timer"))?,
        clock: vm.get_clock().map_err(Error::kvm("read the guest's clock"))?.clock,
    })
}

/// Restores the state on a new machine. Its clock continues from the saved value.
pub fn restore(vm: &VmFd, state: &Controllers) -> Result<()> {
    if !state.chips.iter().map(|chip| chip.chip_id).eq(CHIPS) {
        return Err(Error::Snapshot("it has other interrupt controllers".into()));
    }
    for chip in &state.chips {
        vm.set_irqchip(chip).map_err(Error::kvm("set an interrupt controller"))?;
    }
    vm.set_pit2(&state.pit).map_err(Error::kvm("set the timer"))?;
    let clock = kvm_clock_data { clock: state.clock, ..Default::default() };
    vm.set_clock(&clock).map_err(Error::kvm("set the guest's clock"))
}
