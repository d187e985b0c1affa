//! What PID 1 does before anything else.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{chdir, chroot, setsid};

use crate::error::{Error, Result};

/// Files that a process may open, and to how many it may raise that: containers have as many as with Docker.
const OPEN_FILES: u64 = 1024;
const OPEN_FILES_MAX: u64 = 1 << 20;
const NEW_ROOT: &str = "/newroot";

/// Moves from the initial RAM disk to a root of its own and mounts the kernel's file systems.
pub fn prepare_guest() -> Result<()> {
    leave_initramfs()?;
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("proc", "/proc", "proc", hardened, None)?;
    mount_at("sysfs", "/sys", "sysfs", hardened, None)?;
    mount_at("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, Some("mode=0755"))?;
    mount_at(
        "devpts",
        "/dev/pts",
        "devpts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("ptmxmode=0666,mode=0620,gid=5"),
    )?;
    mount_at("tmpfs", "/dev/shm", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None)?;
    mount_at("tmpfs", "/run", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))?;
    mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2", hardened, None)?;
    // In a user namespace of its own a container cannot raise it.
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES_MAX)
        .map_err(Error::io("set the limit of open files"))?;
    // As init of a new session the agent holds no terminal that a container could reach.
    setsid().map_err(Error::io("start a session"))?;
    Ok(())
}

/// `pivot_root`, which containers need, does not work while the root is the initial RAM disk: an ordinary tmpfs
/// is put on top of it.
fn leave_initramfs() -> Result<()> {
    mount_at("tmpfs", NEW_ROOT, "tmpfs", MsFlags::empty(), Some("mode=0755"))?;
    chdir(NEW_ROOT).map_err(Error::io("enter the new root"))?;
    let none: Option<&str> = None;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(|source| Error::Mount {
        source_name: NEW_ROOT.into(),
        target: "/".into(),
        source,
    })?;
    chroot(".").map_err(Error::io("change the root"))?;
    chdir("/").map_err(Error::io("enter the root"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|source| Error::Mount {
        source_name: "private propagation".into(),
        target: "/".into(),
        source,
    })
}

fn mount_at(source: &str, target: &str, fstype: &str, flags: MsFlags, data: Option<&str>) -> Result<()> {
    fs::create_dir_all(target).map_err(Error::io(format!("make {target}")))?;
    mount(Some(source), target, Some(fstype), flags, data).map_err(|error| Error::Mount {
        source_name: source.into(),
        target: Path::new(target).to_owned(),
        source: error,
    })
}
