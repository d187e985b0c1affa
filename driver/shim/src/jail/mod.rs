//! Confines the shim before its guest runs. Code that breaks out of the guest into the shim finds no files but the
//! sandbox's own, no other processes, no network, no capabilities, and few system calls.

mod filter;
mod root;

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::ExitCode;

use confinement::Nobody;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::Resource;
use nix::unistd::{ForkResult, setsid};
use shim_control::RunDir;

use crate::error::{Error, Result};

pub use filter::confine_this_thread;

/// Most open files: queues and interrupts of the devices, disks, and the clients of the guest's sockets.
const FILES_MAX: u64 = 4096;
/// Most processes and threads of the sandbox's user.
const THREADS_MAX: u64 = 256;

/// Does `work` in a child that is the first process of a new PID namespace, in a session of its own, so that a signal
/// to the service's process group does not reach it. This process returns at once; its status says only whether there
/// is a child. To be called while there is one thread.
pub fn in_new_process(work: impl FnOnce() -> ExitCode) -> Result<ExitCode> {
    match confinement::fork_in_pid_namespace()? {
        ForkResult::Parent { .. } => Ok(ExitCode::SUCCESS),
        ForkResult::Child => {
            setsid().map_err(Error::io("make the sandbox's session"))?;
            Ok(work())
        }
    }
}

/// Confines the process: it keeps its open files and `folder`, its new root. No file may grow beyond `file_size` bytes. To be
/// called while there is one thread.
pub fn enter(folder: &RunDir, user: u32, file_size: u64) -> Result<RunDir> {
    let nobody = Nobody::new(user)?;
    hand_over(folder, user)?;
    let others = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(others).map_err(Error::io("make namespaces"))?;
    root::change(folder.path())?;
    confinement::limit(&[
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_NPROC, THREADS_MAX),
        (Resource::RLIMIT_FSIZE, file_size),
        (Resource::RLIMIT_CORE, 0),
    ])?;
    nobody.become_it()?;
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

/// Enters the control group that limits the sandbox's resources.
pub fn join_cgroup(cgroup: &std::path::Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    let join = || std::io::Write::write_all(&mut File::options().write(true).open(&path)?, b"0");
    join().map_err(Error::io(format!("enter {}", cgroup.display())))
}
