//! A process of a container as the host sees it.

use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::reaper::{Exit, ExitStatus, wait};
use crate::runtime::Stdio;
use crate::streams::Stream;

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// A running or ended process.
pub struct Process {
    pid: Pid,
    exit: Exit,
    stdin: Mutex<Option<Arc<Stream>>>,
    stdout: Stream,
    stderr: Option<Stream>,
    terminal: bool,
}

impl Process {
    /// A process that was just made.
    pub fn new(pid: i32, exit: Exit, stdio: Stdio) -> Self {
        Self {
            pid: Pid::from_raw(pid),
            exit,
            stdin: Mutex::new(stdio.stdin.map(Arc::new)),
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
        }
    }

    /// Its number in the guest's PID namespace.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Result<ExitStatus> {
        wait(self.exit.clone()).await
    }

    /// Sends a signal, unless the process has ended: its number may be another's by now.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exit.borrow().is_some() {
            return Ok(());
        }
        match nix::sys::signal::kill(self.pid, signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(e) => Err(Error::io(format!("send {signal}"))(e)),
        }
    }

    /// Reads output.
    pub async fn read_stdout(&self, length: usize) -> Result<Vec<u8>> {
        self.stdout.read(length).await
    }

    /// Reads diagnostics; with a terminal there are none.
    pub async fn read_stderr(&self, length: usize) -> Result<Vec<u8>> {
        match &self.stderr {
            Some(stderr) => stderr.read(length).await,
            None => Ok(Vec::new()),
        }
    }

    /// Writes input.
    pub async fn write_stdin(&self, data: &[u8]) -> Result<()> {
        let stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match stdin {
            Some(stdin) => stdin.write(data).await,
            None => Err(Error::NoStream("input")),
        }
    }

    /// Ends the input: a pipe is closed; a terminal, which its output shares, stays.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Tells a terminal its size in characters.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        if !self.terminal {
            return Err(Error::NoStream("terminal"));
        }
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.stdout.as_fd());
        // SAFETY: the descriptor is open as long as `self`, and `size` lives through the call.
        unsafe { set_window_size(fd, &raw const size) }.map_err(Error::io("resize a terminal"))?;
        Ok(())
    }
}
