//! The agent's side: starts a helper, waits for its report, takes over the new process and its streams.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{ForkResult, fork};

use super::helper::{self, Helper, Task};
use super::{Confinement, RUNTIME_DIR, Report};
use crate::archive::ArchiveTask;
use crate::error::{Error, Result};
use crate::reaper::{Exit, Reaper, wait};
use crate::streams::Stream;

/// What `libcontainer` says before the reason why a container's process did not come to run, and of a program in it.
const EXECUTION_FAILED: &str = "error in executing process : ";
const EXECUTABLE: &str = "executable '";

/// A new process's streams, our ends.
pub struct Stdio {
    /// What the process reads.
    pub stdin: Option<Stream>,
    /// What it writes.
    pub stdout: Stream,
    /// Its diagnostics; none where a terminal mixes both.
    pub stderr: Option<Stream>,
    /// Whether the streams are a terminal.
    pub terminal: bool,
}

/// A process that was made.
pub struct Launched {
    /// Its identifier in the guest's PID namespace.
    pub pid: i32,
    /// Its status, once it has ended.
    pub exit: Exit,
    /// Its streams.
    pub stdio: Stdio,
}

/// Makes the container of `bundle`. Its first process waits for [`start`] or [`start_with_hooks`].
pub async fn create(
    reaper: &Reaper,
    container: &str,
    bundle: &Path,
    terminal: bool,
    confinement: Confinement,
) -> Result<Launched> {
    let task = |console| Task::Create { bundle: bundle.to_owned(), console, confinement };
    launch(reaper, container, bundle, terminal, task).await
}

/// Makes a process in a container. `directory` is for the process's own files and holds `process.json`.
pub async fn exec(
    reaper: &Reaper,
    container: &str,
    directory: &Path,
    terminal: bool,
    confinement: Confinement,
) -> Result<Launched> {
    let process = directory.join("process.json");
    let task = |console| Task::Exec { process, console, confinement };
    launch(reaper, container, directory, terminal, task).await
}

/// Packs or unpacks files below `root`, in a process of its own.
pub fn archive(reaper: &Reaper, root: &Path, task: &ArchiveTask) -> Result<Launched> {
    let (ends, stdio) = pipes()?;
    let guard = reaper.launch();
    // SAFETY: this process has one thread, so that the child finds no lock held by one that it does not have.
    let pid = match unsafe { fork() }.map_err(Error::io("start to archive"))? {
        ForkResult::Child => helper::run_as_child(&ends.streams(), || archive_to_status(root, task)),
        ForkResult::Parent { child } => child.as_raw(),
    };
    let exit = reaper.exit_of(pid);
    drop(guard);
    Ok(Launched { pid, exit, stdio })
}

/// What was packed, or why it could not be, goes to the diagnostics.
fn archive_to_status(root: &Path, task: &ArchiveTask) -> nix::libc::c_int {
    let (text, status) = match task.run(root) {
        Ok(stat) => (stat.map_or_else(String::new, |stat| stat.to_string()), nix::libc::EXIT_SUCCESS),
        Err(e) => (e.to_string(), nix::libc::EXIT_FAILURE),
    };
    match std::io::stderr().write_all(text.as_bytes()) {
        Ok(()) => status,
        Err(_) => nix::libc::EXIT_FAILURE,
    }
}

/// Lets a container's first process run, and runs the programs that are to follow it.
pub async fn start_with_hooks(reaper: &Reaper, container: &str, bundle: &Path) -> Result<()> {
    run_helper(reaper, container, bundle, Task::Start, Ends::null()?).await.map(|_| ())
}

/// Lets a container's first process run, which no program is to follow: nothing is forked, so that it takes no helper.
pub fn start(container: &str) -> Result<()> {
    helper::load(container)
        .and_then(|mut container| container.start())
        .map_err(|e| failure(&helper::chain(&e)))
}

/// Kills what is left of a container and forgets it.
pub async fn remove(reaper: &Reaper, container: &str, bundle: &Path) -> Result<()> {
    run_helper(reaper, container, bundle, Task::Remove, Ends::null()?).await.map(|_| ())
}

/// Makes a PID namespace that lasts as long as the guest, and gives the path by which a container joins it.
pub async fn make_pid_namespace(reaper: &Reaper) -> Result<PathBuf> {
    std::fs::create_dir_all(RUNTIME_DIR).map_err(Error::io(format!("make {RUNTIME_DIR}")))?;
    let pid = run_helper(reaper, "", Path::new(RUNTIME_DIR), Task::Namespace, Ends::null()?).await?;
    Ok(PathBuf::from(format!("/proc/{pid}/ns/pid")))
}

async fn launch(
    reaper: &Reaper,
    container: &str,
    directory: &Path,
    terminal: bool,
    task: impl FnOnce(Option<PathBuf>) -> Task,
) -> Result<Launched> {
    let guard = reaper.launch();
    let (pid, stdio) = if terminal {
        let socket = ConsoleSocket::new()?;
        let task = task(Some(socket.path.clone()));
        let pid = run_helper(reaper, container, directory, task, Ends::null()?).await?;
        (pid, receive_terminal(&socket.listener)?)
    } else {
        let (ends, stdio) = pipes()?;
        (run_helper(reaper, container, directory, task(None), ends).await?, stdio)
    };
    let exit = reaper.exit_of(pid);
    drop(guard);
    Ok(Launched { pid, exit, stdio })
}

/// Where the runtime sends a terminal. Identifiers may be longer than what a socket's path has room for.
struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    fn new() -> Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("console-{}.sock", MADE.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(RUNTIME_DIR).join(name);
        std::fs::create_dir_all(RUNTIME_DIR).map_err(Error::io(format!("make {RUNTIME_DIR}")))?;
        let listener = UnixListener::bind(&path).map_err(Error::io("listen for a terminal"))?;
        Ok(Self { path, listener })
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// What a helper, and through it the new process, has as its standard streams.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Ends {
    fn streams(&self) -> [&OwnedFd; 3] {
        [&self.stdin, &self.stdout, &self.stderr]
    }

    fn null() -> Result<Self> {
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
                .map_err(Error::io("open /dev/null"))
        };
        Ok(Self { stdin: open()?, stdout: open()?, stderr: open()? })
    }
}

fn pipes() -> Result<(Ends, Stdio)> {
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(Error::io("make a pipe"));
    let (stdin, our_stdin) = pipe()?;
    let (our_stdout, stdout) = pipe()?;
    let (our_stderr, stderr) = pipe()?;
    let stdio = Stdio {
        stdin: Some(Stream::new(our_stdin)?),
        stdout: Stream::new(our_stdout)?,
        stderr: Some(Stream::new(our_stderr)?),
        terminal: false,
    };
    Ok((Ends { stdin, stdout, stderr }, stdio))
}

async fn run_helper(
    reaper: &Reaper,
    container: &str,
    directory: &Path,
    task: Task,
    ends: Ends,
) -> Result<i32> {
    let report: PathBuf = directory.join("report");
    let helper = Helper { report: report.clone(), container: container.to_owned(), task };
    let guard = reaper.launch();
    // SAFETY: this process has one thread, so that the child finds no lock held by one that it does not have.
    let exit = match unsafe { fork() }.map_err(Error::io("start the runtime helper"))? {
        ForkResult::Child => helper::run_as_child(&ends.streams(), || helper.run_to_status()),
        ForkResult::Parent { child } => reaper.exit_of(child.as_raw()),
    };
    drop(ends);
    drop(guard);
    let status = wait(exit).await?;
    let text = std::fs::read_to_string(&report).map_err(|e| {
        Error::Runtime(format!("the runtime helper ended with status {status}, its report: {e}"))
    })?;
    match Report::from_text(&text) {
        Some(Report::Pid(pid)) => Ok(pid),
        Some(Report::Failed(reason)) => Err(failure(&reason)),
        None => Err(Error::Runtime(format!("the runtime helper reported {text:?}"))),
    }
}

/// A program that is not there, or is none, is the user's affair and not the runtime's.
fn failure(reason: &str) -> Error {
    match reason.split_once(EXECUTION_FAILED) {
        Some((_, cause)) if cause.contains(EXECUTABLE) => Error::Program(cause.to_owned()),
        _ => Error::Runtime(reason.to_owned()),
    }
}

/// Takes the terminal that the runtime sent to the console socket.
fn receive_terminal(listener: &UnixListener) -> Result<Stdio> {
    let (connection, _) = listener.accept().map_err(Error::io("accept a terminal"))?;
    let mut name = [0; 64];
    let mut data = [IoSliceMut::new(&mut name)];
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let message =
        recvmsg::<()>(connection.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .map_err(Error::io("receive a terminal"))?;
    let received =
        message.cmsgs().map_err(Error::io("read a terminal's message"))?.find_map(|control| match control {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
    let fd = received.ok_or_else(|| Error::Runtime("the runtime sent no terminal".into()))?;
    // SAFETY: the kernel has just installed this descriptor for us, and nobody else knows of it.
    let master = Stream::new(unsafe { OwnedFd::from_raw_fd(fd) })?;
    Ok(Stdio { stdin: Some(master.try_clone()?), stdout: master, stderr: None, terminal: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_from_a_failing_runtime() {
        let text = "failed to create container: exec process failed with error error in executing process : \
                    executable 'x' not found in $PATH";
        assert_eq!(failure(text).to_string(), "the program cannot be run: executable 'x' not found in $PATH");
        for other in ["failed to mount", "error in executing process : failed to prepare rootfs"] {
            assert!(matches!(failure(other), Error::Runtime(_)), "{other}");
        }
    }
}
