//! The helper's side: one call of the OCI runtime library in a process of its own.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;

use super::{Report, STATE_DIR, pause};

pub const CREATE: &str = "oci-create";
pub const START: &str = "oci-start";
pub const EXEC: &str = "oci-exec";
pub const NAMESPACE: &str = "pid-namespace";
pub const REMOVE: &str = "oci-remove";

/// What the helper was started for. Arguments: verb, report file, container, then those of the verb.
pub struct Helper {
    report: PathBuf,
    container: String,
    task: Task,
}

enum Task {
    /// Make the container of the bundle; with a console socket if it has a terminal.
    Create { bundle: PathBuf, console: Option<PathBuf> },
    /// Let its first process run.
    Start,
    /// Make another process in it.
    Exec { process: PathBuf, console: Option<PathBuf> },
    /// Kill what is left of it and forget it.
    Remove,
    /// Make a PID namespace.
    Namespace,
}

impl Helper {
    /// The helper that these command-line arguments ask for, if any.
    pub fn from_arguments(arguments: &[OsString]) -> Option<Self> {
        let mut arguments = arguments.iter();
        let verb = arguments.next()?.to_str()?;
        let report = PathBuf::from(arguments.next()?);
        let container = arguments.next()?.to_str()?.to_owned();
        let mut path = || arguments.next().map(PathBuf::from);
        let task = match verb {
            CREATE => Task::Create { bundle: path()?, console: path() },
            START => Task::Start,
            EXEC => Task::Exec { process: path()?, console: path() },
            REMOVE => Task::Remove,
            NAMESPACE => Task::Namespace,
            _ => return None,
        };
        Some(Self { report, container, task })
    }

    /// Does the task and reports.
    pub fn run(self) -> ExitCode {
        let report = match self.perform() {
            Ok(pid) => Report::Pid(pid),
            Err(e) => Report::Failed(chain(&e)),
        };
        match std::fs::write(&self.report, report.to_text()) {
            Ok(()) if matches!(report, Report::Pid(_)) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    fn perform(&self) -> Result<i32, LibcontainerError> {
        match &self.task {
            Task::Create { bundle, console } => {
                let container =
                    self.builder(console)?.as_init(bundle).with_systemd(false).with_detach(true).build()?;
                Ok(container.pid().map_or(0, |pid| pid.as_raw()))
            }
            Task::Start => {
                let mut container = self.load()?;
                container.start()?;
                Ok(container.pid().map_or(0, |pid| pid.as_raw()))
            }
            Task::Exec { process, console } => {
                let pid = self
                    .builder(console)?
                    .as_tenant()
                    .with_process(Some(process))
                    .with_detach(true)
                    .build()?;
                Ok(pid.as_raw())
            }
            Task::Remove => {
                self.load()?.delete(true)?;
                Ok(0)
            }
            Task::Namespace => Ok(pause::start().map_err(LibcontainerError::OtherIO)?.cast_signed()),
        }
    }

    fn builder(&self, console: &Option<PathBuf>) -> Result<ContainerBuilder, LibcontainerError> {
        ContainerBuilder::new(self.container.clone(), SyscallType::default())
            .with_console_socket(console.clone())
            .with_root_path(STATE_DIR)?
            .validate_id()
    }

    fn load(&self) -> Result<Container, LibcontainerError> {
        Container::load(Path::new(STATE_DIR).join(&self.container))
    }
}

/// An error with all its causes.
fn chain(error: &dyn StdError) -> String {
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
