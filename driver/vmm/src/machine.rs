use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use kvm_ioctls::{Kvm, VmFd};

use crate::bus::Bus;
use crate::config::{BootConfig, DiskConfig, MachineConfig, NicConfig};
use crate::console::ConsoleRing;
use crate::cpu::{VcpuEnd, VcpuSet, install_kick_handler};
use crate::hardware::{Hardware, placement};
use crate::memory::{Content, GuestRam};
use crate::snapshot::{self, MachineState, Shape, Snapshot, SnapshotFiles};
use crate::threads::Confinement;
use crate::virtio::{Clients, Medium, MemGauge, Traffic};
use crate::{Error, Result, boot};

/// What every guest of this machine model is told: no devices to probe for but those named, reset through the
/// keyboard controller's port at once on a panic, console on the serial port but quiet. A kernel that waits for its
/// readers (RCU) does not wait for ticks, of which a container's start would see dozens.
pub const BASE_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 reboot=k panic=-1 nomodule \
     8250.nr_uarts=1 tsc=reliable no_timer_check rcupdate.rcu_expedited=1";

/// Memory that comes later is used at once.
const MEMORY_TO_COME: &str = " memhp_default_state=online";
const MEBIBYTE: u64 = 1 << 20;

/// How long host programs may take to leave the socket device before a snapshot.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(5);
const CLIENTS_INTERVAL: Duration = Duration::from_millis(1);

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

/// A machine that is built and does not run: it has no thread yet, so that its process can still change as a whole.
pub struct Assembly {
    hardware: Hardware,
    shape: Shape,
}

impl Assembly {
    /// Builds a machine that will enter a kernel.
    pub fn boot(config: MachineConfig, boot: &BootConfig) -> Result<Self> {
        let (shape, devices) = (Shape::of(&config), config.device_count());
        let hardware = Hardware::assemble(config, Content::Zeros)?;
        let memory = hardware.ram.initial();
        let entry = boot::load(memory, boot, &command_line(&boot.command_line, &shape, devices))?;
        boot::write_mp_table(memory, shape.vcpus_max)?;
        hardware.vcpus.boot(entry)?;
        Ok(Self { hardware, shape })
    }

    /// Builds a machine whose vCPUs will go on where those of the snapshot were.
    pub fn restore(config: MachineConfig, snapshot: &Snapshot) -> Result<Self> {
        let shape = Shape::of(&config);
        let state = snapshot.state_for(&shape)?;
        let hardware = Hardware::assemble(config, Content::Copy(snapshot.memory()))?;
        snapshot::restore_controllers(&hardware.vm, &state.controllers)?;
        hardware.vcpus.restore(&state.vcpus)?;
        hardware.bus.restore(&state.serial, &state.devices)?;
        Ok(Self { hardware, shape })
    }

    /// Lets the machine run, its threads confined as asked.
    pub fn run(self, confinement: Confinement) -> Result<Machine> {
        install_kick_handler()?;
        let Self { hardware, shape } = self;
        let Hardware { kvm, vm, ram, vcpus, bus, console, clients, workers, gauge } = hardware;
        workers.begin(confinement)?;
        bus.resume_devices()?;
        let created_at = SystemTime::now();
        let (stop, ended) = mpsc::channel();
        let vcpus = Mutex::new(VcpuSet::start(vcpus, &bus, &stop, confinement)?);
        let ended = Mutex::new(ended);
        Ok(Machine { shape, vcpus, bus, console, clients, ended, stop, created_at, kvm, vm, ram, gauge })
    }
}

/// A running guest.
pub struct Machine {
    shape: Shape,
    vcpus: Mutex<VcpuSet>,
    bus: Arc<Bus>,
    console: ConsoleRing,
    clients: Clients,
    ended: Mutex<mpsc::Receiver<VcpuEnd>>,
    stop: mpsc::Sender<VcpuEnd>,
    created_at: SystemTime,
    kvm: Kvm,
    vm: VmFd,
    ram: GuestRam,
    gauge: Option<MemGauge>,
}

impl Machine {
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

    /// Puts a disk into an empty slot.
    pub fn insert_disk(&self, slot: usize, disk: DiskConfig) -> Result<()> {
        self.bus.insert(self.disk(slot)?, Medium::Disk(disk))
    }

    /// Connects the interface in an empty slot.
    pub fn insert_nic(&self, slot: usize, nic: NicConfig) -> Result<()> {
        self.bus.insert(self.nic(slot)?, Medium::Nic(nic))
    }

    /// Takes the disk out of a slot. The guest must not use it any more: what it has yet to write is lost.
    pub fn eject_disk(&self, slot: usize) -> Result<()> {
        self.bus.eject(self.disk(slot)?)
    }

    /// Disconnects the interface in a slot.
    pub fn eject_nic(&self, slot: usize) -> Result<()> {
        self.bus.eject(self.nic(slot)?)
    }

    /// What went through a slot for a disk since it was filled.
    pub fn disk_traffic(&self, slot: usize) -> Result<Traffic> {
        self.bus.traffic(self.disk(slot)?)
    }

    /// Asks the guest to have so much memory, but never less than it started with. It takes or gives back the
    /// difference as it can; [`Machine::memory`] tells how far it is.
    pub fn resize_memory(&self, mebibytes: u64) -> Result<()> {
        let more = mebibytes.saturating_sub(self.shape.memory_mib).saturating_mul(MEBIBYTE);
        match &self.gauge {
            Some(gauge) => {
                gauge.request(more)?;
                self.bus.tell_of_change(self.last_device())
            }
            None if more == 0 => Ok(()),
            None => Err(Error::Config("the machine's memory cannot grow".into())),
        }
    }

    /// Memory that the guest has, and that it is to have, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let initial = self.shape.memory_mib * MEBIBYTE;
        let gauge = self.gauge.as_ref();
        let grown = |bytes: fn(&MemGauge) -> u64| initial + gauge.map_or(0, bytes);
        (grown(MemGauge::plugged), grown(MemGauge::requested))
    }

    fn last_device(&self) -> usize {
        self.bus.device_count() - 1
    }

    fn disk(&self, slot: usize) -> Result<usize> {
        let count = self.shape.disk_slots.len();
        (slot < count)
            .then_some(slot)
            .ok_or_else(|| Error::Slot(format!("the machine has {count} slots for disks, not {}", slot + 1)))
    }

    fn nic(&self, slot: usize) -> Result<usize> {
        let count = self.shape.nic_slots.len();
        (slot < count).then_some(self.shape.disk_slots.len() + slot).ok_or_else(|| {
            Error::Slot(format!("the machine has {count} slots for interfaces, not {}", slot + 1))
        })
    }

    /// Writes the machine's state to `files`, and goes on. All slots must be empty, and host programs must have left
    /// the socket device or be about to.
    pub fn snapshot(&self, files: &SnapshotFiles) -> Result<()> {
        if self.gauge.as_ref().is_some_and(|gauge| gauge.requested() + gauge.plugged() > 0) {
            return Err(Error::Snapshot("the machine's memory has grown".into()));
        }
        self.wait_for_clients()?;
        let vcpus = self.vcpus();
        vcpus.pause()?;
        self.bus.stop_devices();
        let written = self.write_snapshot(&vcpus, files);
        let resumed = self.bus.resume_devices();
        vcpus.resume();
        written.and(resumed)
    }

    fn write_snapshot(&self, vcpus: &VcpuSet, files: &SnapshotFiles) -> Result<()> {
        let (serial, devices) = self.bus.state()?;
        let state = MachineState {
            shape: self.shape.clone(),
            vcpus: vcpus.states(&self.kvm)?,
            controllers: snapshot::save_controllers(&self.vm)?,
            serial,
            devices,
        };
        files.write(&state, self.ram.initial())
    }

    fn wait_for_clients(&self) -> Result<()> {
        let deadline = Instant::now() + CLIENTS_TIMEOUT;
        while self.clients.count() > 0 {
            if Instant::now() > deadline {
                return Err(Error::Snapshot("a host program stays connected to the guest".into()));
            }
            thread::sleep(CLIENTS_INTERVAL);
        }
        Ok(())
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

impl Drop for Machine {
    /// No thread may use guest memory once its mappings go.
    fn drop(&mut self) {
        self.vcpus().stop();
        self.bus.stop_devices();
    }
}

fn command_line(extra: &str, shape: &Shape, device_count: usize) -> String {
    let mut line = BASE_COMMAND_LINE.to_owned();
    if shape.vcpus < shape.vcpus_max {
        line.push_str(&format!(" maxcpus={}", shape.vcpus));
    }
    if shape.memory_mib < shape.memory_max_mib {
        line.push_str(MEMORY_TO_COME);
    }
    for (window, irq) in (0..device_count).map(placement) {
        line.push_str(&format!(" virtio_mmio.device=4K@{window:#x}:{irq}"));
    }
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_to_the_kernel() {
        let mut shape = Shape {
            vcpus: 1,
            vcpus_max: 1,
            memory_mib: 64,
            memory_max_mib: 64,
            disk_slots: Vec::new(),
            nic_slots: Vec::new(),
            queue_pairs: 1,
            cid: None,
        };
        let line = command_line("quux=1", &shape, 2);
        assert!(
            line.contains(" virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 quux=1")
        );
        assert!(line.starts_with("console=ttyS0"));
        shape.vcpus_max = 4;
        shape.memory_max_mib = 128;
        assert!(command_line("", &shape, 0).ends_with(" maxcpus=1 memhp_default_state=online"));
    }
}
