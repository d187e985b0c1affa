//! Helper programs, such as `mkfs.ext4` and `ip`: each runs to its end without input, within a time limit, and what is kept of
//! its output is bounded.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Bytes that are kept of a program's standard output, and of its standard error.
const KEPT_MAX: usize = 1 << 20;
const PIECE: usize = 16 << 10;
/// Characters of an error message that quotes a program.
const MESSAGE_MAX: usize = 4096;
/// How long output is still read once the program has ended: a process that it left behind may hold the pipe open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{program} cannot be run: {source}")]
    Start { program: &'static str, source: io::Error },
    #[error("{program} did not end within {} s", .limit.as_secs_f64())]
    Timeout { program: &'static str, limit: Duration },
    #[error("{program}: {message}")]
    Failed { program: &'static str, message: String },
    #[error("{program} printed more than {} bytes", KEPT_MAX)]
    TooLong { program: &'static str },
}

/// The result of running a program.
pub type Result<T> = std::result::Result<T, Error>;

/// A program, and how long it may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    name: &'static str,
    limit: Duration,
}

impl Program {
    /// The program of this name in `PATH`, which is killed when it runs for longer than `limit`.
    pub const fn new(name: &'static str, limit: Duration) -> Self {
        Self { name, limit }
    }

    /// Runs it to its end and fails unless it succeeds.
    pub async fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        let output = self.output(arguments).await?;
        if output.status.success() {
            return Ok(output);
        }
        Err(Error::Failed { program: self.name, message: output.failure() })
    }

    /// Runs it to its end, whatever its exit status. It is killed when the returned future is dropped.
    pub async fn output(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        let (program, limit) = (self.name, self.limit);
        let failed = |source| Error::Start { program, source };
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let ended = timeout(limit, wait(child)).await.map_err(|_| Error::Timeout { program, limit })?;
        let (status, stdout, stderr) = ended.map_err(failed)?;
        Ok(Output { program, status, stdout, stderr })
    }
}

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Output {
    program: &'static str,
    status: ExitStatus,
    stdout: Captured,
    stderr: Captured,
}

impl Output {
    /// Its exit status.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Its standard output. More than is kept of it is an error: half of an answer must not pass for a whole one.
    pub fn text(&self) -> Result<String> {
        if self.stdout.is_cut {
            return Err(Error::TooLong { program: self.program });
        }
        Ok(String::from_utf8_lossy(&self.stdout.bytes).into_owned())
    }

    /// Why it failed, in one line: its standard error, or its exit status where that is empty.
    pub fn failure(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr.bytes).trim().replace('\n', "; ");
        if text.is_empty() { self.status.to_string() } else { text.chars().take(MESSAGE_MAX).collect() }
    }
}

/// The beginning of a stream.
#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Captured {
    /// Reads a stream to its end, beyond what is kept of it too: its writer would wait for ever otherwise.
    async fn drain(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            let kept = length.min(KEPT_MAX - self.bytes.len());
            self.is_cut |= kept < length;
            self.bytes.extend_from_slice(&piece[..kept]);
        }
    }
}

/// Waits for a program's end, and reads meanwhile what it prints.
async fn wait(mut child: Child) -> io::Result<(ExitStatus, Captured, Captured)> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let status = {
        let mut reading = pin!(async { tokio::join!(stdout.drain(out), stderr.drain(err)) });
        tokio::select! {
            status = child.wait() => {
                let _ = timeout(DRAIN_TIMEOUT, reading.as_mut()).await;
                status?
            }
            _ = reading.as_mut() => child.wait().await?,
        }
    };
    Ok((status, stdout, stderr))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SHELL: Program = Program::new("sh", Duration::from_secs(60));

    #[tokio::test]
    async fn output_and_exit_status_are_captured() {
        let output = SHELL.output(["-c", "echo out; echo one >&2; echo two >&2; exit 3"]).await.unwrap();
        assert_eq!(output.status().code(), Some(3));
        assert_eq!(output.text().unwrap(), "out\n");
        assert_eq!(output.failure(), "one; two");
        let input = SHELL.run(["-c", "cat"]).await.unwrap();
        assert_eq!(input.text().unwrap(), "", "there is no input");
    }

    #[tokio::test]
    async fn errors_name_the_program() {
        let failed = SHELL.run(["-c", "exit 4"]).await.unwrap_err().to_string();
        assert_eq!(failed, "sh: exit status: 4");
        let missing = Program::new("no-such-program", Duration::from_secs(60));
        let missing = missing.run(["x"]).await.unwrap_err().to_string();
        assert!(missing.starts_with("no-such-program cannot be run: "), "{missing}");
        let endless = Program::new("sleep", Duration::from_millis(50));
        let endless = endless.run(["60"]).await.unwrap_err().to_string();
        assert_eq!(endless, "sleep did not end within 0.05 s");
    }

    #[tokio::test]
    async fn output_beyond_the_bound_is_read_and_dropped() {
        let script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2";
        let output = SHELL.run(["-c", script]).await.unwrap();
        assert_eq!(output.text().unwrap_err().to_string(), "sh printed more than 1048576 bytes");
        assert_eq!((output.stdout.bytes.len(), output.stderr.bytes.len()), (KEPT_MAX, KEPT_MAX));
        assert_eq!(output.failure().chars().count(), MESSAGE_MAX);
    }

    #[tokio::test]
    async fn a_process_left_behind_is_not_waited_for() {
        let started = Instant::now();
        let output = SHELL.run(["-c", "sleep 30 & echo done"]).await.unwrap();
        assert_eq!(output.text().unwrap(), "done\n");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
