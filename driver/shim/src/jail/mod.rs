//! Confines the shim before its guest runs. Code that breaks out of the guest into the shim finds no files but the
//! sandbox's own, no other processes, no network, no capabilities, and few system calls.

mod filter;
mod root;

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::ExitCode;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid, setsid};
use shim_control::RunDir;

use crate::error::{Error, Result};

pub use filter::confine_this_thread;

/// File with the number of the kernel's last capability.
const LAST_CAPABILITY: &str = "/proc/sys/kernel/cap_last_cap";
/// Most open files: queues and interrupts of the devices, disks, and the clients of the guest's sockets.
const FILES_MAX: u64 = 4096;
/// Most processes and threads of the sandbox's user.
const THREADS_MAX: u64 = 256;

/// Does `work` in a child that is the first process of a new PID namespace, in a session of its own, so that a signal
/// to the service's process group does not reach it. This process returns at once; its status says only whether there
/// is a child. To be called while there is one thread.
pub fn in_new_process(work: impl FnOnce() -> ExitCode) -> Result<ExitCode> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(Error::io("make a PID namespace"))?;
    // SAFETY: there is one thread, so that the child finds no lock held by one that it does not have.
    match unsafe { fork() }.map_err(Error::io("make the sandbox's process"))? {
        ForkResult::Parent { .. } => Ok(ExitCode::SUCCESS),
        ForkResult::Child => {
            setsid().map_err(Error::io("make the sandbox's session"))?;
            Ok(work())
        }
    }
}

/// Gives up all rights except to open files and to the files in `folder`, which becomes the root. To be called while
/// there is one thread.
pub fn enter(folder: &RunDir, user: u32) -> Result<RunDir> {
    let last_capability = last_capability()?;
    hand_over(folder, user)?;
    let others = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET;
    unshare(others).map_err(Error::io("make namespaces"))?;
    root::change(folder.path())?;
    for (resource, most) in [
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_NPROC, THREADS_MAX),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, most, most).map_err(Error::io(format!("set {resource:?}")))?;
    }
    become_nobody_else(user, last_capability)?;
    Ok(RunDir::new("/"))
}

/// Gives the sandbox's files to its user, except those of a template, which must not be changed.
fn hand_over(folder: &RunDir, user: u32) -> Result<()> {
    let entries = std::fs::read_dir(folder.path()).map_err(Error::io("read the sandbox's folder"))?;
    let files = entries.filter_map(std::result::Result::ok).filter(is_file).map(|entry| entry.path());
    for path in files.chain([folder.path().to_owned(), folder.vsock_socket()]) {
        chown(&path, Some(user), Some(user)).map_err(Error::io(format!("hand over {}", path.display())))?;
    }
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(folder.path(), private).map_err(Error::io("close the sandbox's folder"))
}

fn is_file(entry: &std::fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_file())
}

fn become_nobody_else(user: u32, last_capability: libc::c_ulong) -> Result<()> {
    for capability in 0..=last_capability {
        prctl(libc::PR_CAPBSET_DROP, capability, "give up capabilities")?;
    }
    setgroups(&[]).map_err(Error::io("leave all groups"))?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setresgid(gid, gid, gid).map_err(Error::io("change the group"))?;
    // This also clears the other capability sets.
    setresuid(uid, uid, uid).map_err(Error::io("change the user"))?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "give up new privileges")?;
    prctl(libc::PR_SET_DUMPABLE, 0, "forbid tracing")
}

fn prctl(option: libc::c_int, argument: libc::c_ulong, what: &str) -> Result<()> {
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: these options take numbers, no pointers.
    match unsafe { libc::prctl(option, argument, UNUSED, UNUSED, UNUSED) } {
        -1 => Err(Error::io(what)(std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}

fn last_capability() -> Result<libc::c_ulong> {
    let text = std::fs::read_to_string(LAST_CAPABILITY).map_err(Error::io("read the last capability"))?;
    text.trim().parse().map_err(|_| Error::io("read the last capability")(std::io::ErrorKind::InvalidData))
}

/// Enters the control group that limits the sandbox's resources.
pub fn join_cgroup(cgroup: &std::path::Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    let join = || std::io::Write::write_all(&mut File::options().write(true).open(&path)?, b"0");
    join().map_err(Error::io(format!("enter {}", cgroup.display())))
}
