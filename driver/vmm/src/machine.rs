use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::SystemTime;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{Bus, SerialInterrupt};
use crate::config::MachineConfig;
use crate::console::ConsoleRing;
use crate::cpu::{VcpuEnd, VcpuSet, install_kick_handler};
use crate::layout::{KVM_TSS, SERIAL_IRQ, VIRTIO_IRQ_BASE, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};
use crate::memory::{self, Memory};
use crate::virtio::{Balloon, Block, Interrupt, MmioTransport, Net, Rng, VirtioDevice, Vsock};
use crate::{Error, Result, boot};

/// What every guest of this machine model is told: no devices to probe for but those named, reset through the
/// keyboard controller's port at once on a panic, console on the serial port but quiet.
pub const BASE_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 reboot=k panic=-1 nomodule \
     8250.nr_uarts=1 tsc=reliable no_timer_check";

/// How a guest came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestExit {
    /// The guest reset itself without having panicked.
    Shutdown,
    /// The guest kernel panicked; the text is its own.
    Panic(String),
    /// The guest's CPU shut down on a triple fault.
    TripleFault,
    /// KVM could not run the guest any further.
    KvmError(String),
    /// [`Machine::stop`] was called.
    Stopped,
}

/// A running guest.
pub struct Machine {
    vcpus: Mutex<VcpuSet>,
    bus: Arc<Bus>,
    console: ConsoleRing,
    ended: Mutex<mpsc::Receiver<VcpuEnd>>,
    stop: mpsc::Sender<VcpuEnd>,
    created_at: SystemTime,
    _vm: VmFd,
    _memory: Memory,
}

impl Machine {
    /// Builds the machine and lets its first vCPU enter the kernel.
    pub fn start(config: MachineConfig) -> Result<Self> {
        config.validate()?;
        install_kick_handler()?;
        let kvm = open_kvm()?;
        let vm = kvm.create_vm().map_err(Error::kvm("create a virtual machine"))?;
        let memory = memory::allocate(config.memory_mib)?;
        memory::register(&vm, &memory)?;
        create_interrupt_controllers(&vm)?;

        let vcpu_count = config.vcpus;
        let entry = boot::load(&memory, &config, &command_line(&config.command_line, config.device_count()))?;
        boot::write_mp_table(&memory, vcpu_count)?;

        let console = ConsoleRing::default();
        let serial = event_fd()?;
        vm.register_irqfd(&serial, SERIAL_IRQ).map_err(Error::kvm("connect the serial interrupt"))?;
        let transports = devices(config)?
            .into_iter()
            .enumerate()
            .map(|(index, device)| attach(&vm, &memory, index, device))
            .collect::<Result<Vec<_>>>()?;
        let bus = Arc::new(Bus::new(SerialInterrupt(serial), console.clone(), transports));

        let created_at = SystemTime::now();
        let (stop, ended) = mpsc::channel();
        let vcpus = VcpuSet::start(&kvm, &vm, vcpu_count, entry, Arc::clone(&bus), stop.clone())?;
        Ok(Self {
            vcpus: Mutex::new(vcpus),
            bus,
            console,
            ended: Mutex::new(ended),
            stop,
            created_at,
            _vm: vm,
            _memory: memory,
        })
    }

    /// Blocks until the guest ends, then ends its threads. To be called once.
    pub fn wait(&self) -> GuestExit {
        let end = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv();
        self.vcpus().stop();
        self.bus.stop_devices();
        match end.unwrap_or(VcpuEnd::Stopped) {
            VcpuEnd::Stopped => GuestExit::Stopped,
            VcpuEnd::KvmError(reason) => GuestExit::KvmError(reason),
            VcpuEnd::Reset => self.console.panic_message().map_or(GuestExit::Shutdown, GuestExit::Panic),
            VcpuEnd::TripleFault => {
                self.console.panic_message().map_or(GuestExit::TripleFault, GuestExit::Panic)
            }
        }
    }

    /// Ends the guest without asking it; [`Machine::wait`] then returns.
    pub fn stop(&self) {
        // The receiver lives as long as `self`.
        let _ = self.stop.send(VcpuEnd::Stopped);
    }

    /// Takes the vCPUs out of the guest until [`Machine::resume`]; devices go on.
    pub fn pause(&self) -> Result<()> {
        self.vcpus().pause()
    }

    /// Lets the vCPUs run again.
    pub fn resume(&self) {
        self.vcpus().resume();
    }

    /// When all was built and no vCPU had run yet.
    pub fn created_at(&self) -> SystemTime {
        self.created_at
    }

    /// The guest's console.
    pub fn console(&self) -> &ConsoleRing {
        &self.console
    }

    fn vcpus(&self) -> MutexGuard<'_, VcpuSet> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
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

fn devices(config: MachineConfig) -> Result<Vec<Box<dyn VirtioDevice>>> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in config.disks {
        devices.push(Box::new(Block::new(disk)?));
    }
    for nic in config.nics {
        devices.push(Box::new(Net::new(nic)?));
    }
    if let Some(vsock) = config.vsock {
        devices.push(Box::new(Vsock::new(vsock)?));
    }
    devices.push(Box::new(Rng::new()?));
    devices.push(Box::new(Balloon));
    Ok(devices)
}

fn attach(vm: &VmFd, memory: &Memory, index: usize, device: Box<dyn VirtioDevice>) -> Result<MmioTransport> {
    let (window, irq) = placement(index);
    let line = event_fd()?;
    vm.register_irqfd(&line, irq).map_err(Error::kvm("connect a device's interrupt"))?;
    let transport = MmioTransport::new(device, memory.clone(), Interrupt::new(line))?;
    transport.register_notifications(vm, window)?;
    Ok(transport)
}

/// Register window and interrupt line of device `index`.
fn placement(index: usize) -> (u64, u32) {
    (VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_SIZE, VIRTIO_IRQ_BASE + index as u32)
}

fn command_line(extra: &str, device_count: usize) -> String {
    let mut line = BASE_COMMAND_LINE.to_owned();
    for (window, irq) in (0..device_count).map(placement) {
        line.push_str(&format!(" virtio_mmio.device=4K@{window:#x}:{irq}"));
    }
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    line
}

pub(crate) fn event_fd() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK).map_err(Error::io("create an event descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_to_the_kernel() {
        let line = command_line("quux=1", 2);
        assert!(
            line.contains(" virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 quux=1")
        );
        assert!(line.starts_with("console=ttyS0"));
    }
}
