//! Seccomp filters: each kind of thread has a list of system calls, and any other call ends the process.

use std::collections::BTreeMap;
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_list, kvm_msrs,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BALLOON, VIRTIO_ID_BLOCK, VIRTIO_ID_MEM, VIRTIO_ID_NET, VIRTIO_ID_RNG, VIRTIO_ID_VSOCK,
};

use crate::{Error, Result};

/// Whether the machine's threads are held to their lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// Threads may do whatever their process may.
    None,
    /// A call that is not on a thread's list ends the process.
    Seccomp,
}

/// The purpose of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a vCPU.
    Vcpu,
    /// Starts the threads of devices.
    Workers,
    /// Serves the device of this type.
    Device(u32),
}

/// A system call and the conditions on its arguments, of which one must hold; without conditions all are allowed.
pub type Rule = (i64, Vec<SeccompRule>);

/// System calls of any thread of a Rust program: memory, locks, signals, time, exit.
const ANY_THREAD: [i64; 25] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
];

const EVENTS: [i64; 5] = [
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
];

const RATE: [i64; 2] = [libc::SYS_timerfd_create, libc::SYS_timerfd_settime];
/// Rings are made before a process is confined.
const DISK: [i64; 1] = [libc::SYS_io_uring_enter];
const INTERFACE: [i64; 2] = [libc::SYS_readv, libc::SYS_writev];
const SOCKETS: [i64; 5] =
    [libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_shutdown, libc::SYS_writev];
/// System calls that start a thread, besides `clone`.
const START: [i64; 3] = [libc::SYS_rseq, libc::SYS_seccomp, libc::SYS_set_robust_list];
/// Calls answered with `ENOSYS`, after which the C library falls back to others: `openat` of the overcommit setting
/// when it releases memory, and `clone3`, whose flags a filter cannot see.
const UNKNOWN: [i64; 2] = [libc::SYS_openat, libc::SYS_clone3];
/// The flags of a thread, and all `CLONE_NEW*` flags.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
const NEW_NAMESPACES: u64 = 0x7e02_0000;

const FIONBIO: u64 = libc::FIONBIO;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETQUEUE: u64 = 0x4004_54d9;
/// Requests that give queues to vhost-net and take them back (`linux/vhost.h`).
const VHOST: [u64; 10] = [
    0x8008_af00, // VHOST_GET_FEATURES
    0x4008_af00, // VHOST_SET_FEATURES
    0x0000_af01, // VHOST_SET_OWNER
    0x4008_af03, // VHOST_SET_MEM_TABLE
    0x4008_af10, // VHOST_SET_VRING_NUM
    0x4028_af11, // VHOST_SET_VRING_ADDR
    0x4008_af12, // VHOST_SET_VRING_BASE
    0xc008_af12, // VHOST_GET_VRING_BASE
    0x4008_af20, // VHOST_SET_VRING_KICK
    0x4008_af21, // VHOST_SET_VRING_CALL
];
const VHOST_NET_SET_BACKEND: u64 = 0x4008_af30;
const KVM_RUN: u64 = kvm(NOTHING, 0x80, 0);
const KVM_KVMCLOCK_CTRL: u64 = kvm(NOTHING, 0xad, 0);

/// Requests that read the state of a machine and its vCPUs; `KVM_RUN` completes a vCPU's pending access.
const SNAPSHOT: [u64; 15] = [
    KVM_RUN,
    kvm(NOTHING, 0x03, 0),
    kvm(BOTH, 0x02, size_of::<kvm_msr_list>()),
    kvm(BOTH, 0x62, size_of::<kvm_irqchip>()),
    kvm(READ, 0x7c, size_of::<kvm_clock_data>()),
    kvm(READ, 0x81, size_of::<kvm_regs>()),
    kvm(READ, 0x83, size_of::<kvm_sregs>()),
    kvm(BOTH, 0x88, size_of::<kvm_msrs>()),
    kvm(READ, 0x8e, size_of::<kvm_lapic_state>()),
    kvm(READ, 0x98, size_of::<kvm_mp_state>()),
    kvm(READ, 0x9f, size_of::<kvm_vcpu_events>()),
    kvm(READ, 0x9f, size_of::<kvm_pit_state2>()),
    kvm(READ, 0xa1, size_of::<kvm_debugregs>()),
    kvm(READ, 0xa4, size_of::<kvm_xsave>()),
    kvm(READ, 0xa6, size_of::<kvm_xcrs>()),
];

const NOTHING: u64 = 0;
const READ: u64 = 2;
const BOTH: u64 = 3;

/// The KVM request of this direction, number and argument size in bytes (`asm-generic/ioctl.h`).
const fn kvm(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xae << 8 | number
}

impl Confinement {
    /// Starts a thread that applies the filter of its kind before it runs `body`.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        kind: ThreadKind,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let filter = match self {
            Self::None => None,
            Self::Seccomp => Some(Filter::new(rules(kind)?, &UNKNOWN)?),
        };
        let confined = move || {
            if let Some(filter) = filter
                && let Err(e) = filter.apply()
            {
                tracing::error!(error = %e, "a thread cannot be confined, the sandbox ends");
                std::process::abort();
            }
            body()
        };
        thread::Builder::new().name(name.to_owned()).spawn(confined).map_err(Error::io("start a thread"))
    }
}

fn rules(kind: ThreadKind) -> Result<Vec<Rule>> {
    Ok([of_kind(kind)?, diagnostics()?].concat())
}

/// Rules for a process whose diagnostics have a bound: whichever thread says too much makes the file begin anew.
fn diagnostics() -> Result<Vec<Rule>> {
    Ok(vec![(libc::SYS_ftruncate, vec![rule(0, SeccompCmpOp::Eq, libc::STDERR_FILENO as u64)?])])
}

fn of_kind(kind: ThreadKind) -> Result<Vec<Rule>> {
    Ok(match kind {
        ThreadKind::Vcpu => {
            let events = plain(&[libc::SYS_eventfd2]);
            [plain(&ANY_THREAD), events, ioctls(&[KVM_RUN, KVM_KVMCLOCK_CTRL])?, memory()?].concat()
        }
        ThreadKind::Device(VIRTIO_ID_BLOCK) => [device()?, plain(&DISK), plain(&RATE)].concat(),
        ThreadKind::Device(VIRTIO_ID_NET) => {
            [device()?, plain(&INTERFACE), plain(&RATE), interface_ioctls()?].concat()
        }
        ThreadKind::Device(VIRTIO_ID_VSOCK) => [device()?, plain(&SOCKETS), ioctls(&[FIONBIO])?].concat(),
        ThreadKind::Device(VIRTIO_ID_RNG | VIRTIO_ID_BALLOON | VIRTIO_ID_MEM) => device()?,
        ThreadKind::Device(_) => plain(&ANY_THREAD),
        ThreadKind::Workers => {
            let all = [device()?, plain(&DISK), plain(&RATE), plain(&SOCKETS), plain(&INTERFACE)].concat();
            [all, plain(&START), interface_ioctls()?, ioctls(&[FIONBIO])?, threads()?].concat()
        }
    })
}

fn interface_ioctls() -> Result<Vec<Rule>> {
    ioctls(&[&VHOST[..], &[VHOST_NET_SET_BACKEND, TUNSETOFFLOAD, TUNSETQUEUE]].concat())
}

fn device() -> Result<Vec<Rule>> {
    Ok([plain(&ANY_THREAD), plain(&EVENTS), memory()?].concat())
}

/// Rules that allow these calls with any arguments.
pub fn plain(calls: &[i64]) -> Vec<Rule> {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Rules for a thread that owns a machine: fill its slots, pause it, and read its state.
pub fn owner_rules() -> Result<Vec<Rule>> {
    Ok([rules(ThreadKind::Workers)?, ioctls(&SNAPSHOT)?, ioctls(&[TUNSETVNETHDRSZ])?].concat())
}

/// Rules that allow `ioctl` with one of these requests.
fn ioctls(requests: &[u64]) -> Result<Vec<Rule>> {
    let rules = requests.iter().map(|request| rule(1, SeccompCmpOp::Eq, *request)).collect::<Result<_>>()?;
    Ok(vec![(libc::SYS_ioctl, rules)])
}

/// Rules that allow mapping and protecting memory, but not making it executable.
fn memory() -> Result<Vec<Rule>> {
    let executable = libc::PROT_EXEC as u64;
    let never = || Ok::<_, Error>(vec![rule(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    Ok(vec![(libc::SYS_mmap, never()?), (libc::SYS_mprotect, never()?)])
}

/// Rules that allow starting and naming threads, but neither processes nor new namespaces.
fn threads() -> Result<Vec<Rule>> {
    let thread = rule(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES | THREAD), THREAD)?;
    let name = rule(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?;
    // `seccompiler` sets this again before it applies a filter.
    let no_new_privileges = rule(0, SeccompCmpOp::Eq, libc::PR_SET_NO_NEW_PRIVS as u64)?;
    Ok(vec![(libc::SYS_clone, vec![thread]), (libc::SYS_prctl, vec![name, no_new_privileges])])
}

/// A condition on argument `index`: `operator` with `value`.
pub fn rule(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(unusable)
}

/// A compiled list of system calls.
pub struct Filter {
    allowed: BpfProgram,
    unknown: BpfProgram,
}

impl Filter {
    /// A filter that allows `rules`, answers `unknown` calls with `ENOSYS`, and ends the process for all others. A
    /// call named more than once is allowed what any of its entries allows.
    pub fn new(rules: Vec<Rule>, unknown: &[i64]) -> Result<Self> {
        let allowed = merge([rules, plain(unknown)].concat());
        let lacking = SeccompAction::Errno(libc::ENOSYS as u32);
        Ok(Self {
            allowed: compile(allowed, SeccompAction::KillProcess, SeccompAction::Allow)?,
            unknown: compile(merge(plain(unknown)), SeccompAction::Allow, lacking)?,
        })
    }

    /// Applies the filter to this thread and those that it starts from now on.
    pub fn apply(&self) -> Result<()> {
        // The list comes last, so that it need not allow setting filters.
        [&self.unknown, &self.allowed]
            .into_iter()
            .try_for_each(|program| seccompiler::apply_filter(program))
            .map_err(|e| Error::Config(format!("a list of system calls cannot be applied: {e}")))
    }
}

fn merge(rules: Vec<Rule>) -> BTreeMap<i64, Vec<SeccompRule>> {
    let unconditional: Vec<_> =
        rules.iter().filter(|(_, rules)| rules.is_empty()).map(|(call, _)| *call).collect();
    let mut merged: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, conditions) in rules {
        merged.entry(call).or_default().extend(conditions);
    }
    merged.extend(unconditional.into_iter().map(|call| (call, Vec::new())));
    merged
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, listed, TargetArch::x86_64);
    filter.and_then(BpfProgram::try_from).map_err(unusable)
}

fn unusable(error: seccompiler::BackendError) -> Error {
    Error::Config(format!("a list of system calls cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_thread_has_a_list() {
        let devices = [
            VIRTIO_ID_BLOCK,
            VIRTIO_ID_NET,
            VIRTIO_ID_VSOCK,
            VIRTIO_ID_RNG,
            VIRTIO_ID_BALLOON,
            VIRTIO_ID_MEM,
        ];
        let kinds =
            devices.map(ThreadKind::Device).into_iter().chain([ThreadKind::Vcpu, ThreadKind::Workers]);
        for kind in kinds {
            let calls: Vec<_> = rules(kind).unwrap().into_iter().map(|(call, _)| call).collect();
            for forbidden in
                [libc::SYS_execve, libc::SYS_open, libc::SYS_ptrace, libc::SYS_socket, libc::SYS_mount]
            {
                assert!(!calls.contains(&forbidden), "{kind:?} may call {forbidden}");
            }
            Filter::new(rules(kind).unwrap(), &UNKNOWN).unwrap();
        }
    }

    #[test]
    fn a_worker_may_do_no_more_than_who_starts_it() {
        let may = |kind| rules(kind).unwrap().into_iter().map(|(call, _)| call).collect::<Vec<_>>();
        let starter = may(ThreadKind::Workers);
        for device in
            [VIRTIO_ID_BLOCK, VIRTIO_ID_NET, VIRTIO_ID_VSOCK, VIRTIO_ID_RNG, VIRTIO_ID_BALLOON, VIRTIO_ID_MEM]
        {
            let missing: Vec<_> =
                may(ThreadKind::Device(device)).into_iter().filter(|call| !starter.contains(call)).collect();
            assert_eq!(missing, Vec::<i64>::new(), "device {device} would be killed by its starter's list");
        }
    }
}
