//! How a process that reads what tenants wrote gives up its rights, for good. To be called while it has one thread.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use caps::CapSet;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};

/// File with the number of the kernel's last capability.
const LAST_CAPABILITY: &str = "/proc/sys/kernel/cap_last_cap";

/// What a process could not give up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct Error {
    what: String,
    /// Why not.
    pub source: io::Error,
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error { what: what.into(), source: source.into() }
}

/// Sets limits that neither this process nor what it runs can raise.
pub fn limit(limits: &[(Resource, u64)]) -> Result<()> {
    limits.iter().try_for_each(|(resource, most)| {
        setrlimit(*resource, *most, *most).map_err(failed(format!("set {resource:?}")))
    })
}

/// Lets whatever else has work go before this process, and before what it runs.
pub fn yield_processors() -> Result<()> {
    const LAST: libc::c_int = 19;
    // SAFETY: it takes numbers, no pointers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LAST) } {
        0 => Ok(()),
        _ => Err(failed("lower its priority")(io::Error::last_os_error())),
    }
}

/// Makes a child that is the first process of a new PID namespace: when it ends, all that it has started ends with it.
pub fn fork_in_pid_namespace() -> Result<ForkResult> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(failed("make a PID namespace"))?;
    // SAFETY: there is one thread (the crate's contract), so that the child finds no lock held by one that it does not have.
    unsafe { fork() }.map_err(failed("make a process in it"))
}

/// A user without any rights, which this process is to become.
#[derive(Debug)]
pub struct Nobody {
    user: u32,
    last_capability: libc::c_ulong,
    /// This process's folder in /proc, opened first: /proc is unreachable after a change of root.
    process: OwnedFd,
}

impl Nobody {
    /// The user and the group of this number. To be called while /proc can still be reached.
    pub fn new(user: u32) -> Result<Self> {
        const WHAT: &str = "read the last capability";
        let text = std::fs::read_to_string(LAST_CAPABILITY).map_err(failed(WHAT))?;
        let number = text.trim().parse();
        let last_capability =
            number.map_err(|_| failed(WHAT)(io::Error::from(io::ErrorKind::InvalidData)))?;
        let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let process = open("/proc/self", folder, Mode::empty()).map_err(failed("open /proc/self"))?;
        Ok(Self { user, last_capability, process })
    }

    /// Drops all capabilities and groups, forbids regaining them, and makes the process untraceable by its own user, in a user
    /// namespace in which there is no other user.
    pub fn become_it(self) -> Result<()> {
        prctl(libc::PR_SET_KEEPCAPS, 1, "keep capabilities")?;
        self.change_user()?;
        let kept = caps::read(None, CapSet::Permitted).map_err(unchanged)?;
        caps::set(None, CapSet::Effective, &kept).map_err(unchanged)?;
        unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("make a user namespace"))?;
        // Until then its files in /proc are root's.
        prctl(libc::PR_SET_DUMPABLE, 1, "own its files in /proc")?;
        let map = format!("{0} {0} 1", self.user);
        for (name, text) in [("setgroups", "deny"), ("uid_map", &map), ("gid_map", &map)] {
            let file = openat(&self.process, name, OFlag::O_WRONLY, Mode::empty()).map(File::from);
            let written = file.map_err(io::Error::from).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(failed(format!("write {name}")))?;
        }
        self.drop_bounds()?;
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
            caps::clear(None, set).map_err(unchanged)?;
        }
        settle()
    }

    fn drop_bounds(&self) -> Result<()> {
        let mut all = 0..=self.last_capability;
        all.try_for_each(|capability| prctl(libc::PR_CAPBSET_DROP, capability, "give up capabilities"))
    }

    fn change_user(&self) -> Result<()> {
        setgroups(&[]).map_err(failed("leave all groups"))?;
        let (uid, gid) = (Uid::from_raw(self.user), Gid::from_raw(self.user));
        setresgid(gid, gid, gid).map_err(failed("change the group"))?;
        setresuid(uid, uid, uid).map_err(failed("change the user"))
    }
}

fn settle() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "give up new privileges")?;
    prctl(libc::PR_SET_DUMPABLE, 0, "forbid tracing")
}

fn unchanged(error: caps::errors::CapsError) -> Error {
    failed("change capabilities")(io::Error::other(error))
}

fn prctl(option: libc::c_int, argument: libc::c_ulong, what: &str) -> Result<()> {
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: these options take numbers, no pointers.
    match unsafe { libc::prctl(option, argument, UNUSED, UNUSED, UNUSED) } {
        -1 => Err(failed(what)(io::Error::last_os_error())),
        _ => Ok(()),
    }
}
