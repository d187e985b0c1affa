//! Assembles a machine: the virtual machine, its memory, interrupt controllers and devices.

use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, SerialInterrupt, SharedDevice};
use crate::config::MachineConfig;
use crate::console::ConsoleRing;
use crate::cpu::Vcpus;
use crate::event::event_fd;
use crate::layout::{
    KVM_TSS, MAX_VIRTIO_DEVICES, SERIAL_IRQ, VIRTIO_IRQ_BASE, VIRTIO_LINES, VIRTIO_MMIO_BASE,
    VIRTIO_MMIO_SIZE,
};
use crate::memory::{self, Content, GuestRam, Memory};
use crate::virtio::{
    Balloon, Block, BlockSlot, Clients, Interrupt, Mem, MemHandle, MmioTransport, Net, NicSlot, Rng,
    SharedTransport, VirtioDevice, Vsock, Workers,
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
    pub handles: Handles,
}

/// Handles of the devices that the machine's owner changes while the guest runs.
pub struct Handles {
    /// Disk slots in the order of the configuration.
    pub disk_slots: Vec<BlockSlot>,
    /// Interface slots in the order of the configuration.
    pub nic_slots: Vec<NicSlot>,
    /// The memory device, if the guest's memory may grow.
    pub memory: Option<MemHandle>,
}

impl Hardware {
    /// Assembles a machine whose memory holds `content`.
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
        let mut windows = Windows {
            vm: &vm,
            memory: ram.memory(),
            workers: &workers,
            devices: Vec::new(),
            lines: Vec::new(),
        };
        let handles = attach_devices(config, &clients, &mut windows)?;
        let bus = Arc::new(Bus::new(SerialInterrupt(serial), console.clone(), windows.devices));
        Ok(Self { kvm, vm, ram, vcpus, bus, console, clients, workers, handles })
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

/// Attaches all devices. Their order is guest-visible, and a snapshot keeps their states in it.
fn attach_devices(config: MachineConfig, clients: &Clients, windows: &mut Windows<'_>) -> Result<Handles> {
    let growth = config.growth();
    let mut disk_slots = Vec::with_capacity(config.disk_slots.len());
    for access in config.disk_slots {
        let device = Block::new(access)?;
        let (traffic, patience) = (device.traffic(), device.patience());
        disk_slots.push(BlockSlot::new(windows.attach(device)?, traffic, patience));
    }
    let mut nic_slots = Vec::with_capacity(config.nic_slots.len());
    for mac in config.nic_slots {
        let device = Net::new(mac, config.queue_pairs);
        nic_slots.push(NicSlot::new(windows.attach(device)?, mac));
    }
    if let Some(vsock) = config.vsock {
        windows.attach(Vsock::new(vsock, clients.clone())?)?;
    }
    windows.attach(Rng::new()?)?;
    windows.attach(Balloon)?;
    let memory = match growth {
        Some(growth) => {
            let device = Mem::new(growth);
            let gauge = device.gauge();
            Some(MemHandle::new(windows.attach(device)?, gauge))
        }
        None => None,
    };
    Ok(Handles { disk_slots, nic_slots, memory })
}

/// The register windows in use. Each attached device takes the next window and the next interrupt line; after the last line comes
/// the first again.
struct Windows<'a> {
    vm: &'a VmFd,
    memory: &'a Memory,
    workers: &'a Workers,
    devices: Vec<SharedDevice>,
    /// The irqfds of the lines in use.
    lines: Vec<Arc<EventFd>>,
}

impl Windows<'_> {
    fn attach<D: VirtioDevice>(&mut self, device: D) -> Result<SharedTransport<D>> {
        let index = self.devices.len();
        if index >= MAX_VIRTIO_DEVICES {
            return Err(Error::Config(format!("more than {MAX_VIRTIO_DEVICES} virtio devices asked for")));
        }
        let (window, irq) = placement(index);
        let line = self.line(irq)?;
        let (memory, workers) = (self.memory.clone(), self.workers.clone());
        let transport = MmioTransport::new(device, memory, Interrupt::new(line), workers)?;
        transport.register_notifications(self.vm, window)?;
        let transport = Arc::new(Mutex::new(transport));
        self.devices.push(transport.clone());
        Ok(transport)
    }

    fn line(&mut self, irq: u32) -> Result<Arc<EventFd>> {
        if let Some(line) = self.lines.get((irq - VIRTIO_IRQ_BASE) as usize) {
            return Ok(Arc::clone(line));
        }
        let line = Arc::new(event_fd()?);
        self.vm.register_irqfd(&line, irq).map_err(Error::kvm("connect a device's interrupt"))?;
        self.lines.push(Arc::clone(&line));
        Ok(line)
    }
}

/// Register window and interrupt line of device `index`.
pub fn placement(index: usize) -> (u64, u32) {
    let irq = VIRTIO_IRQ_BASE + (index % VIRTIO_LINES) as u32;
    (VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_SIZE, irq)
}
