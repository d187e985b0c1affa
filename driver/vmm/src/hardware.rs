//! The parts of a machine, put together: the virtual machine, its memory, interrupt controllers and devices.

use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{Bus, SerialInterrupt};
use crate::config::MachineConfig;
use crate::console::ConsoleRing;
use crate::cpu::Vcpus;
use crate::layout::{KVM_TSS, SERIAL_IRQ, VIRTIO_IRQ_BASE, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};
use crate::memory::{self, Content, GuestRam, Memory};
use crate::virtio::{
    Balloon, Block, Clients, Interrupt, Mem, MemGauge, MmioTransport, Net, Rng, VirtioDevice, Vsock, Workers,
};
use crate::{Error, Result};

/// A machine whose vCPUs have no state yet.
pub struct Hardware {
    pub kvm: Kvm,
    pub vm: VmFd,
    pub ram: GuestRam,
    pub vcpus: Vcpus,
    pub bus: Arc<Bus>,
    pub console: ConsoleRing,
    /// Host programs that are connected to the socket device.
    pub clients: Clients,
    pub workers: Workers,
    /// Of the memory to come, which is the last device.
    pub gauge: Option<MemGauge>,
}

impl Hardware {
    /// Puts a machine together whose memory holds `content`.
    pub fn assemble(config: MachineConfig, content: Content<'_>) -> Result<Self> {
        config.validate()?;
        let kvm = open_kvm()?;
        let vm = kvm.create_vm().map_err(Error::kvm("create a virtual machine"))?;
        let ram = GuestRam::map(config.memory_mib, config.growth(), content)?;
        memory::register(&vm, ram.memory())?;
        create_interrupt_controllers(&vm)?;
        let vcpus = Vcpus::create(&kvm, &vm, config.vcpus_max)?;

        let console = ConsoleRing::default();
        let serial = event_fd()?;
        vm.register_irqfd(&serial, SERIAL_IRQ).map_err(Error::kvm("connect the serial interrupt"))?;
        let (clients, workers) = (Clients::default(), Workers::default());
        let growth = config.growth().map(Mem::new);
        let gauge = growth.as_ref().map(Mem::gauge);
        let memory_to_come = growth.map(|device| Box::new(device) as Box<dyn VirtioDevice>);
        let transports = devices(config, &clients)?
            .into_iter()
            .chain(memory_to_come)
            .enumerate()
            .map(|(index, device)| attach(&vm, ram.memory(), index, device, &workers))
            .collect::<Result<Vec<_>>>()?;
        let bus = Arc::new(Bus::new(SerialInterrupt(serial), console.clone(), transports));
        Ok(Self { kvm, vm, ram, vcpus, bus, console, clients, workers, gauge })
    }
}

fn open_kvm() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|e| Error::Unusable(format!("/dev/kvm cannot be opened: {e}")))?;
    for (capability, name) in [
        (Cap::Irqchip, "an in-kernel interrupt controller"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::Irqfd, "irqfd"),
        (Cap::UserMemory, "user memory"),
        (Cap::SetTssAddr, "a movable TSS"),
        (Cap::ImmediateExit, "an immediate exit"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(Error::Unusable(format!("it lacks {name}")));
        }
    }
    Ok(kvm)
}

/// Interrupt controllers, and the PIT: Linux without ACPI calibrates its local APIC timer with it.
fn create_interrupt_controllers(vm: &VmFd) -> Result<()> {
    vm.set_tss_address(KVM_TSS).map_err(Error::kvm("place the TSS"))?;
    vm.create_irq_chip().map_err(Error::kvm("create the interrupt controllers"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(Error::kvm("create the timer"))
}

/// The devices in the order of their windows, but for memory to come: slots for disks, slots for interfaces, others.
fn devices(config: MachineConfig, clients: &Clients) -> Result<Vec<Box<dyn VirtioDevice>>> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for access in config.disk_slots {
        devices.push(Box::new(Block::new(access)));
    }
    for mac in config.nic_slots {
        devices.push(Box::new(Net::new(mac, config.queue_pairs)));
    }
    if let Some(vsock) = config.vsock {
        devices.push(Box::new(Vsock::new(vsock, clients.clone())?));
    }
    devices.push(Box::new(Rng::new()?));
    devices.push(Box::new(Balloon));
    Ok(devices)
}

fn attach(
    vm: &VmFd,
    memory: &Memory,
    index: usize,
    device: Box<dyn VirtioDevice>,
    workers: &Workers,
) -> Result<MmioTransport> {
    let (window, irq) = placement(index);
    let line = event_fd()?;
    vm.register_irqfd(&line, irq).map_err(Error::kvm("connect a device's interrupt"))?;
    let transport = MmioTransport::new(device, memory.clone(), Interrupt::new(line), workers.clone())?;
    transport.register_notifications(vm, window)?;
    Ok(transport)
}

/// Register window and interrupt line of device `index`.
pub fn placement(index: usize) -> (u64, u32) {
    (VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_SIZE, VIRTIO_IRQ_BASE + index as u32)
}

pub fn event_fd() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK).map_err(Error::io("create an event descriptor"))
}
