//! The helper's side: one call of the OCI runtime library in a process of its own.

use std::error::Error as StdError;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use tracing::subscriber::NoSubscriber;

use super::{Confinement, Report, STATE_DIR, pause};

/// What a helper is for.
pub struct Helper {
    /// Where it reports.
    pub report: PathBuf,
    /// The container.
    pub container: String,
    /// What is done to it.
    pub task: Task,
}

/// One call of the library.
pub enum Task {
    /// Make the container of the bundle; with a console socket if it has a terminal.
    Create { bundle: PathBuf, console: Option<PathBuf>, confinement: Confinement },
    /// Let its first process run.
    Start,
    /// Make another process in it.
    Exec { process: PathBuf, console: Option<PathBuf>, confinement: Confinement },
    /// Kill what is left of it and forget it.
    Remove,
    /// Make a PID namespace.
    Namespace,
}

impl Helper {
    /// Does the task and reports.
    pub fn run_to_status(self) -> libc::c_int {
        // The standard error is the container's by now.
        let performed = tracing::subscriber::with_default(NoSubscriber::default(), || self.perform());
        let report = match performed {
            Ok(pid) => Report::Pid(pid),
            Err(e) => Report::Failed(chain(&e)),
        };
        match std::fs::write(&self.report, report.to_text()) {
            Ok(()) if matches!(report, Report::Pid(_)) => libc::EXIT_SUCCESS,
            _ => libc::EXIT_FAILURE,
        }
    }

    fn perform(&self) -> Result<i32, LibcontainerError> {
        match &self.task {
            Task::Create { bundle, console, confinement } => {
                let container = self
                    .builder(console, confinement)?
                    .as_init(bundle)
                    .with_systemd(false)
                    .with_detach(true)
                    .build()?;
                Ok(container.pid().map_or(0, |pid| pid.as_raw()))
            }
            Task::Start => {
                let mut container = load(&self.container)?;
                container.start()?;
                Ok(container.pid().map_or(0, |pid| pid.as_raw()))
            }
            Task::Exec { process, console, confinement } => {
                let pid = self
                    .builder(console, confinement)?
                    .as_tenant()
                    .with_process(Some(process))
                    .with_detach(true)
                    .build()?;
                Ok(pid.as_raw())
            }
            Task::Remove => {
                load(&self.container)?.delete(true)?;
                Ok(0)
            }
            Task::Namespace => Ok(pause::start().map_err(|e| LibcontainerError::OtherIO(e.into()))?.as_raw()),
        }
    }

    fn builder(
        &self,
        console: &Option<PathBuf>,
        confinement: &Confinement,
    ) -> Result<ContainerBuilder, LibcontainerError> {
        ContainerBuilder::new(self.container.clone(), SyscallType::default())
            .with_console_socket(console.clone())
            .with_executor(confinement.clone())
            .with_root_path(STATE_DIR)?
            .validate_id()
    }
}

/// Goes on as a child that has just been forked, with these standard streams and none of its parent's files, does `work`
/// and ends with the status that it gives.
pub fn run_as_child(streams: &[&OwnedFd; 3], work: impl FnOnce() -> libc::c_int) -> ! {
    // The parent's handler would write to a descriptor that is another's here.
    // SAFETY: no handler is installed.
    let quiet = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop);
    let connected = streams.iter().zip(0..).try_for_each(|(stream, number)| {
        // SAFETY: both are plain numbers, and nothing of this child uses the descriptor that is replaced.
        Errno::result(unsafe { libc::dup2(stream.as_raw_fd(), number) }).map(drop)
    });
    // SAFETY: nothing of this child uses a descriptor that it has from its parent but the three.
    let closed = quiet
        .and(connected)
        .and_then(|()| Errno::result(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }));
    let status = match closed {
        Ok(_) => work(),
        Err(_) => libc::EXIT_FAILURE,
    };
    // SAFETY: what the parent registered for its end is not this child's to do.
    unsafe { libc::_exit(status) }
}

/// A container that was made.
pub fn load(container: &str) -> Result<Container, LibcontainerError> {
    Container::load(Path::new(STATE_DIR).join(container))
}

/// An error with all its causes.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
