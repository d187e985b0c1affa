use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::orders::{Order, Orders, Turn};
use super::state::{self, VcpuState};
use super::{cpuid, registers};
use crate::boot::Entry;
use crate::bus::Bus;
use crate::threads::{Confinement, ThreadKind};
use crate::{Error, Result};

/// Time for all vCPUs to leave the guest.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of kicks: one that arrives between a thread's check of its orders and KVM_RUN is lost.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// The cause of a vCPU's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuEnd {
    /// The guest asked for a reset.
    Reset,
    /// The vCPU shut down, as on a triple fault.
    TripleFault,
    /// KVM could not run the vCPU, for this reason.
    KvmError(String),
    /// The machine's owner ended it.
    Stopped,
}

/// Installs a handler without effect for the kick signal, which interrupts a vCPU thread.
pub fn install_kick_handler() -> Result<()> {
    extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), handler)
        .map_err(|e| Error::Io { what: "install the vCPU signal", source: io::Error::from(e) })
}

/// The vCPUs of a machine that does not run yet.
pub struct Vcpus(Vec<VcpuFd>);

impl Vcpus {
    /// Creates `count` vCPUs.
    pub fn create(kvm: &Kvm, vm: &VmFd, count: u8) -> Result<Self> {
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("read the host's CPUID"))?;
        (0..count).map(|index| create(vm, index, count, &supported)).collect::<Result<_>>().map(Self)
    }

    /// Sets the state in which the vCPUs boot a kernel.
    pub fn boot(&self, entry: Entry) -> Result<()> {
        for vcpu in &self.0 {
            registers::set_common_state(vcpu)?;
        }
        self.0.first().map_or(Ok(()), |first| registers::set_boot_state(first, entry))
    }

    /// Restores the states of a snapshot.
    pub fn restore(&self, states: &[VcpuState]) -> Result<()> {
        if states.len() != self.0.len() {
            return Err(Error::Snapshot(format!("it has {} vCPUs, not {}", states.len(), self.0.len())));
        }
        self.0.iter().zip(states).try_for_each(|(vcpu, saved)| state::restore(vcpu, saved))
    }
}

/// The vCPU threads of one machine.
#[derive(Debug)]
pub struct VcpuSet {
    vcpus: Vec<Arc<Mutex<VcpuFd>>>,
    threads: Vec<JoinHandle<()>>,
    orders: Arc<Orders>,
}

impl VcpuSet {
    /// Starts the threads. Each vCPU sends the cause of its end to `ended`.
    pub fn start(
        vcpus: Vcpus,
        bus: &Arc<Bus>,
        ended: &mpsc::Sender<VcpuEnd>,
        confinement: Confinement,
    ) -> Result<Self> {
        let vcpus = vcpus.0.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        let mut set = Self { vcpus, threads: Vec::new(), orders: Arc::new(Orders::new()) };
        for (index, vcpu) in set.vcpus.iter().enumerate() {
            let (vcpu, bus, ended, orders) =
                (Arc::clone(vcpu), Arc::clone(bus), ended.clone(), Arc::clone(&set.orders));
            let body = move || {
                let end = run(&vcpu, &bus, &orders);
                // Fails only while the machine is being dropped.
                let _ = ended.send(end);
            };
            set.threads.push(confinement.spawn(ThreadKind::Vcpu, &format!("vcpu{index}"), body)?);
        }
        Ok(set)
    }

    /// The states of all vCPUs, which must be paused.
    pub fn states(&self, kvm: &Kvm) -> Result<Vec<VcpuState>> {
        let registers = state::model_specific_registers(kvm)?;
        self.vcpus.iter().map(|vcpu| state::save(&mut lock(vcpu), &registers)).collect()
    }

    /// Takes all vCPUs out of the guest; their threads wait. If one does not leave in time, all run on.
    pub fn pause(&self) -> Result<()> {
        self.orders.give(Order::Pause);
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        let mut held = 0;
        while held + self.finished() < self.threads.len() {
            if Instant::now() > deadline {
                self.resume();
                return Err(Error::Busy(PAUSE_TIMEOUT.as_secs()));
            }
            self.threads.iter().for_each(kick);
            held = self.orders.held(held, KICK_INTERVAL);
        }
        Ok(())
    }

    /// Lets all vCPUs run again.
    pub fn resume(&self) {
        self.orders.give(Order::Run);
    }

    /// Ends all vCPU threads and waits for them.
    pub fn stop(&mut self) {
        self.orders.give(Order::End);
        // All are kicked in each round: one may wait for what another does.
        while self.finished() < self.threads.len() {
            self.threads.iter().filter(|thread| !thread.is_finished()).for_each(kick);
            thread::sleep(KICK_INTERVAL);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a vCPU thread panicked");
            }
        }
    }

    fn finished(&self) -> usize {
        self.threads.iter().filter(|thread| thread.is_finished()).count()
    }
}

/// Makes a vCPU's thread leave the guest.
fn kick(thread: &JoinHandle<()>) {
    // SAFETY: the handle is of a thread that is not joined yet, and the signal has a handler.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
}

impl Drop for VcpuSet {
    fn drop(&mut self) {
        self.stop();
    }
}

fn create(vm: &VmFd, index: u8, count: u8, supported: &CpuId) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(u64::from(index)).map_err(Error::kvm("create a vCPU"))?;
    let mut leaves = supported.clone();
    cpuid::adapt(&mut leaves, index, count);
    vcpu.set_cpuid2(&leaves).map_err(Error::kvm("set a vCPU's CPUID"))?;
    Ok(vcpu)
}

/// Runs a vCPU to its end. It is locked while it is in the guest or its exit is handled, and free while it is paused.
fn run(vcpu: &Mutex<VcpuFd>, bus: &Bus, orders: &Orders) -> VcpuEnd {
    loop {
        let turn = orders.next();
        let mut vcpu = lock(vcpu);
        match turn {
            Turn::Enter => {}
            // Keeps the guest's watchdogs from firing for the pause. Fails, harmlessly, for a guest without kvmclock.
            Turn::EnterAfterPause => vcpu.kvmclock_ctrl().unwrap_or(()),
            Turn::End => return VcpuEnd::Stopped,
        }
        if let Some(end) = enter(&mut vcpu, bus) {
            return end;
        }
    }
}

/// Runs the guest until its next exit and handles that. Returns the vCPU's end, if the exit is one.
fn enter(vcpu: &mut VcpuFd, bus: &Bus) -> Option<VcpuEnd> {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => return bus.port_write(port, data).then_some(VcpuEnd::Reset),
        Ok(VcpuExit::IoIn(port, data)) => bus.port_read(port, data),
        Ok(VcpuExit::MmioRead(address, data)) => bus.mmio_read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => bus.mmio_write(address, data),
        Ok(VcpuExit::Shutdown) => return Some(VcpuEnd::TripleFault),
        Ok(VcpuExit::Intr | VcpuExit::Hlt) => {}
        Ok(VcpuExit::SystemEvent(..)) => return Some(VcpuEnd::Reset),
        Ok(exit) => return Some(VcpuEnd::KvmError(format!("{exit:?}"))),
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
        Err(e) => return Some(VcpuEnd::KvmError(format!("KVM_RUN failed: {e}"))),
    }
    None
}

fn lock(vcpu: &Mutex<VcpuFd>) -> MutexGuard<'_, VcpuFd> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}
