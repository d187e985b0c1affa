//! Starting a sandbox's shim.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use shim_control::{Client, ClientError, Phase, SandboxDir, SandboxState};
use tokio::io::AsyncReadExt;

use crate::error::{Error, Result};
use crate::files;
use crate::host_options::HostOptions;
use crate::plugged::Plugged;

/// Longest wait for a shim's word on its guest; longer than the shim waits for the guest.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// Most bytes of a shim's log that are read: it keeps to fewer.
const LOG_MAX: u64 = 2 << 20;

/// Starts the shim on a folder that holds a plan and a new folder for what it writes, and waits until its guest is ready.
pub async fn start(folder: &SandboxDir, options: &HostOptions) -> Result<SandboxState> {
    files::remove(&folder.control_socket())?;
    Plugged::forget(folder.path())?;
    files::remove(&folder.shim_log())?;
    let log = File::options().append(true).create_new(true).open(folder.shim_log());
    let log = log.map_err(Error::io("make", folder.shim_log()))?;
    let mut shim = tokio::process::Command::from(command(folder, options, log))
        .spawn()
        .map_err(Error::io("run", &options.shim))?;
    // The process that was started makes another and ends; that one holds the pipe, into which nothing is written.
    let lives = shim.stdout.take();
    let ended = tokio::spawn(async move {
        if let Some(mut lives) = lives {
            let _ = lives.read(&mut [0; 1]).await;
        }
    });
    let begun = tokio::time::timeout(READY_TIMEOUT, shim.wait()).await;
    let late = || Error::Start(format!("its shim does not begin within {} s", READY_TIMEOUT.as_secs()));
    begun.map_err(|_| late())?.map_err(Error::io("wait for", &options.shim))?;
    let client = Client::new(folder.control_socket());
    // The socket appears a little before the shim listens on it.
    let ready = async {
        loop {
            match client.wait_ready().await {
                Err(ClientError::Gone(_)) if !ended.is_finished() => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                answer => break answer,
            }
        }
    };
    let state = match tokio::time::timeout(READY_TIMEOUT, ready).await {
        Ok(Ok(state)) => state,
        Ok(Err(e)) => folder.run().read_state().map_err(|_| Error::Start(reason(folder, &e.to_string())))?,
        Err(_) => {
            return Err(Error::Start(format!(
                "its shim does not answer within {} s",
                READY_TIMEOUT.as_secs()
            )));
        }
    };
    match &state.phase {
        Phase::Ready => Ok(state),
        Phase::Failed { reason } => Err(Error::Start(reason.clone())),
        Phase::Booting | Phase::Paused | Phase::Ended => Err(Error::Start(reason(folder, "its shim ended"))),
    }
}

/// What the shim said last, if it said anything.
fn reason(folder: &SandboxDir, otherwise: &str) -> String {
    let mut log = String::new();
    let read = File::open(folder.shim_log()).and_then(|file| file.take(LOG_MAX).read_to_string(&mut log));
    let last = log.lines().last().filter(|_| read.is_ok());
    last.map_or_else(|| otherwise.to_owned(), str::to_owned)
}

fn command(folder: &SandboxDir, options: &HostOptions, log: File) -> Command {
    let mut command = Command::new(&options.shim);
    command
        .arg(folder.path())
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log));
    command
}
