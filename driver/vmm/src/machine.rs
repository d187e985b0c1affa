use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use kvm_ioctls::{Kvm, VmFd};

use crate::bus::Bus;
use crate::config::{BootConfig, MachineConfig};
use crate::console::ConsoleRing;
use crate::cpu::{VcpuEnd, VcpuSet, install_kick_handler};
use crate::hardware::{Handles, Hardware, placement};
use crate::memory::{Content, GuestRam};
use crate::snapshot::{self, MachineState, MachineTopology, Snapshot, SnapshotFiles};
use crate::threads::Confinement;
use crate::virtio::{BlockSlot, Clients, MemGauge, MemHandle, NicSlot};
use crate::{Error, Result, boot};

/// Kernel arguments of every guest: console on the serial port but quiet, no probing for devices that do not exist,
/// and on a panic an immediate reset through the keyboard controller. RCU grace periods are expedited: starting a
/// container waits for dozens of them.
pub const BASE_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 reboot=k panic=-1 nomodule \
     8250.nr_uarts=1 tsc=reliable no_timer_check rcupdate.rcu_expedited=1";

/// Added memory is brought online at once.
const MEMORY_TO_COME: &str = " memhp_default_state=online";
const MEBIBYTE: u64 = 1 << 20;

/// Time for host programs to disconnect from the socket device before a snapshot.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(5);
const CLIENTS_INTERVAL: Duration = Duration::from_millis(1);

/// The cause of a guest's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestExit {
    /// The guest reset itself without a panic.
    Shutdown,
    /// The guest kernel panicked, with this message.
    Panic(String),
    /// The guest's CPU shut down on a triple fault.
    TripleFault,
    /// KVM could not run the guest any further.
    KvmError(String),
    /// [`Machine::stop`] was called.
    Stopped,
}

/// A machine that does not run yet. It has no threads, so that its process can still change namespaces and user.
pub struct Assembly {
    hardware: Hardware,
    topology: MachineTopology,
}

impl Assembly {
    /// Builds a machine that boots a kernel.
    pub fn boot(config: MachineConfig, boot: &BootConfig) -> Result<Self> {
        let topology = MachineTopology::of(&config);
        let hardware = Hardware::assemble(config, Content::Zeros)?;
        let command_line = command_line(&boot.command_line, &topology);
        let memory = hardware.ram.initial();
        let entry = boot::load(memory, boot, &command_line, &devices(hardware.bus.device_count()))?;
        boot::write_mp_table(memory, topology.vcpus_max)?;
        hardware.vcpus.boot(entry)?;
        Ok(Self { hardware, topology })
    }

    /// Builds a machine that continues from a snapshot, whose topology must be that of `config`.
    pub fn restore(config: MachineConfig, snapshot: &Snapshot) -> Result<Self> {
        let topology = MachineTopology::of(&config);
        let state = snapshot.state_for(&topology)?;
        let hardware = Hardware::assemble(config, Content::Copy(snapshot.memory()))?;
        snapshot::restore_controllers(&hardware.vm, &state.controllers)?;
        hardware.vcpus.restore(&state.vcpus)?;
        hardware.bus.restore(&state.serial, &state.devices)?;
        Ok(Self { hardware, topology })
    }

    /// Starts the machine, with its threads confined as `confinement` says.
    pub fn run(self, confinement: Confinement) -> Result<Machine> {
        install_kick_handler()?;
        let Self { hardware, topology } = self;
        let Hardware { kvm, vm, ram, vcpus, bus, console, clients, workers, handles } = hardware;
        workers.begin(confinement)?;
        bus.resume_devices()?;
        let created_at = SystemTime::now();
        let (stop, ended) = mpsc::channel();
        let vcpus = Mutex::new(VcpuSet::start(vcpus, &bus, &stop, confinement)?);
        let ended = Mutex::new(ended);
        Ok(Machine { topology, vcpus, bus, console, clients, ended, stop, created_at, kvm, vm, ram, handles })
    }
}

/// A running guest.
pub struct Machine {
    topology: MachineTopology,
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
    handles: Handles,
}

impl Machine {
    /// Blocks until the guest ends, then ends the machine's threads. To be called once.
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

    /// Ends the guest without its cooperation; [`Machine::wait`] then returns.
    pub fn stop(&self) {
        // The receiver lives as long as `self`.
        let _ = self.stop.send(VcpuEnd::Stopped);
    }

    /// Takes the vCPUs out of the guest until [`Machine::resume`]; devices are still served.
    pub fn pause(&self) -> Result<()> {
        self.vcpus().pause()
    }

    /// Lets the vCPUs run again.
    pub fn resume(&self) {
        self.vcpus().resume();
    }

    /// The disk slots, in the order of [`MachineConfig::disk_slots`].
    pub fn disk_slots(&self) -> &[BlockSlot] {
        &self.handles.disk_slots
    }

    /// The interface slots, in the order of [`MachineConfig::nic_slots`].
    pub fn nic_slots(&self) -> &[NicSlot] {
        &self.handles.nic_slots
    }

    /// Asks the guest to have `mebibytes` of memory, but never less than its initial memory. The guest takes or
    /// returns the difference over time; [`Machine::memory`] shows its progress.
    pub fn resize_memory(&self, mebibytes: u64) -> Result<()> {
        let more = mebibytes.saturating_sub(self.topology.memory_mib).saturating_mul(MEBIBYTE);
        match &self.handles.memory {
            Some(memory) => memory.request(more),
            None if more == 0 => Ok(()),
            None => Err(Error::Config("the machine's memory cannot grow".into())),
        }
    }

    /// The guest's memory and the memory that it was asked to have, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let initial = self.topology.memory_mib * MEBIBYTE;
        let grown = |bytes: fn(&MemGauge) -> u64| initial + self.gauge().map_or(0, bytes);
        (grown(MemGauge::plugged), grown(MemGauge::requested))
    }

    fn gauge(&self) -> Option<&MemGauge> {
        self.handles.memory.as_ref().map(MemHandle::gauge)
    }

    /// Writes the machine's state to `files`; the machine then runs on. All slots must be empty, and host programs
    /// must have left the socket device or leave it soon.
    pub fn snapshot(&self, files: &SnapshotFiles) -> Result<()> {
        if self.gauge().is_some_and(|gauge| gauge.requested() + gauge.plugged() > 0) {
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
            topology: self.topology.clone(),
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

    /// Time just before the first vCPU ran.
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
    /// No thread may use guest memory once it is unmapped, and no handle may start one.
    fn drop(&mut self) {
        self.vcpus().stop();
        self.bus.close_devices();
    }
}

/// The virtio devices as Linux' parameter `virtio_mmio.device` has them.
fn devices(count: usize) -> Vec<String> {
    let device = |(window, line): (u64, u32)| format!("4K@{window:#x}:{line}");
    (0..count).map(placement).map(device).collect()
}

fn command_line(extra: &str, topology: &MachineTopology) -> String {
    let mut line = BASE_COMMAND_LINE.to_owned();
    if topology.vcpus < topology.vcpus_max {
        line.push_str(&format!(" maxcpus={}", topology.vcpus));
    }
    if topology.memory_mib < topology.memory_max_mib {
        line.push_str(MEMORY_TO_COME);
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
        assert_eq!(devices(2), ["4K@0xd0000000:5", "4K@0xd0001000:6"]);
        assert_eq!(devices(20)[19], "4K@0xd0013000:5", "more devices than lines share these");
    }

    #[test]
    fn a_kernel_is_told_what_comes_later() {
        let mut topology = MachineTopology {
            vcpus: 1,
            vcpus_max: 1,
            memory_mib: 64,
            memory_max_mib: 64,
            disk_slots: Vec::new(),
            nic_slots: Vec::new(),
            queue_pairs: 1,
            cid: None,
        };
        let line = command_line("quux=1", &topology);
        assert!(line.starts_with("console=ttyS0") && line.ends_with(" quux=1"), "{line}");
        topology.vcpus_max = 4;
        topology.memory_max_mib = 128;
        assert!(command_line("", &topology).ends_with(" maxcpus=1 memhp_default_state=online"));
    }
}
