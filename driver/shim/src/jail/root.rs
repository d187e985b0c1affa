use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::error::{Error, Result};

/// Makes `folder` the root of this process's mount namespace, in which nothing else is mounted.
pub fn change(folder: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let mounted = |what: &str| Error::io::<nix::Error>(format!("{what} for the sandbox's root"));
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(mounted("make mounts private"))?;
    mount(Some(folder), folder, none, MsFlags::MS_BIND, none).map_err(mounted("mount the folder"))?;
    let hardened =
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, folder, none, hardened, none).map_err(mounted("forbid devices and programs"))?;
    chdir(folder).map_err(mounted("enter the folder"))?;
    // This mounts the old root on top of the new one, from where it is unmounted.
    pivot_root(".", ".").map_err(mounted("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(mounted("leave the old root"))?;
    chdir("/").map_err(mounted("enter the root"))
}
