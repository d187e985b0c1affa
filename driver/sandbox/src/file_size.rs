//! The largest file that a shim may write, so that a compromised one cannot fill the disk.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

/// Lets the process write a file of the size that `disk` has. A block device has a size of its own.
pub fn allow_disk(shim: Pid, disk: &File) -> io::Result<()> {
    let metadata = disk.metadata()?;
    if metadata.is_file() { allow(shim, metadata.len()) } else { Ok(()) }
}

/// Lets the process write a file of this size. What it may write already stays.
pub fn allow(shim: Pid, bytes: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives through the call, which writes it.
    let read = unsafe { libc::prlimit(shim.as_raw(), libc::RLIMIT_FSIZE, std::ptr::null(), &raw mut limit) };
    Errno::result(read)?;
    if limit.rlim_max >= bytes {
        return Ok(());
    }
    let more = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit lives through the call, which reads it.
    let set =
        unsafe { libc::prlimit(shim.as_raw(), libc::RLIMIT_FSIZE, &raw const more, std::ptr::null_mut()) };
    Ok(Errno::result(set).map(drop)?)
}
