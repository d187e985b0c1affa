//! The first process of the PID namespace that containers of a sandbox may share.

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork, pause};

/// Starts that process, and gives its identifier outside the namespace. To be called by a helper: what it starts from then
/// on is in the namespace.
pub fn start() -> nix::Result<Pid> {
    // Inherited: the kernel then collects orphans that end in the namespace.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: a helper has one thread, so that the child finds no lock held by one that it does not have.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => loop {
            pause();
        },
    }
}
