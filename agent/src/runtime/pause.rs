//! The first process of the PID namespace that containers of a sandbox may share.

use std::convert::Infallible;
use std::io;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::pause;

pub const PAUSE: &str = "pause";

/// Starts that process, and gives its identifier outside the namespace. To be called by a helper: what it starts from then
/// on is in the namespace.
pub fn start() -> io::Result<u32> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    Ok(Command::new("/proc/self/exe").arg(PAUSE).spawn()?.id())
}

/// What the process does: it lets the kernel collect orphans that end, and never ends itself.
pub fn run() -> io::Result<Infallible> {
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    loop {
        pause();
    }
}
