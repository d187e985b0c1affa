//! What a worker sees of the host's files: the programs and libraries, which it cannot change, and its own directory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

/// Where programs and libraries are. Those that are links on the host are links here.
const PROGRAMS: [&str; 5] = ["usr", "bin", "lib", "lib64", "sbin"];
const NULL: &str = "dev/null";
const NONE: Option<&str> = None;

/// Makes the working directory the root of this process, in a mount namespace of its own.
pub fn change() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let folder = std::env::current_dir()?;
    mount(Some(&folder), &folder, NONE, MsFlags::MS_BIND, NONE)?;
    harden(&folder, MsFlags::MS_NOEXEC)?;
    // What was entered before is beneath the mount.
    chdir(&folder)?;
    for name in PROGRAMS {
        show(name)?;
    }
    make_folder("dev")?;
    File::create_new(NULL)?;
    mount(Some("/dev/null"), NULL, NONE, MsFlags::MS_BIND, NONE)?;
    // This mounts the old root on top of the new one, from where it is unmounted.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// Shows one of the host's folders beneath the working directory.
fn show(name: &str) -> io::Result<()> {
    let original = Path::new("/").join(name);
    match fs::symlink_metadata(&original) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(original)?, name),
        Ok(_) => {
            make_folder(name)?;
            mount(Some(&original), name, NONE, MsFlags::MS_BIND, NONE)?;
            harden(Path::new(name), MsFlags::MS_RDONLY)
        }
    }
}

/// A directory that the worker's user may enter, whatever the umask.
fn make_folder(name: &str) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(name)?;
    fs::set_permissions(name, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

fn harden(mounted: &Path, also: MsFlags) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | also;
    Ok(mount(NONE, mounted, NONE, flags, NONE)?)
}
