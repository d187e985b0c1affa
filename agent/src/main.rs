//! The agent of a sandbox.
//!
//! As PID 1 of the guest it mounts what a container needs, then answers `AgentService` on vsock. To make a
//! container or a process in one it forks a short-lived helper, because the OCI runtime library forks and changes its
//! own process. For that the agent has one thread.

mod archive;
mod containers;
mod cpus;
mod error;
mod files;
mod identity;
mod init;
mod layer;
mod listener;
mod named;
mod network;
mod packer;
mod process;
mod processes;
mod reaper;
mod runtime;
mod service;
mod stats;
mod storage;
mod streams;
mod sysctls;
mod unpacker;
mod users;

use std::process::ExitCode;

use error::Result;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("kata-agent is started by a sandbox's kernel as PID 1");
        return ExitCode::FAILURE;
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .without_time()
        .with_writer(std::io::stderr)
        // It would panic where the console cannot be written to.
        .log_internal_errors(false)
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The kernel panics when PID 1 ends, and the host reports this line with it.
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    init::prepare_guest()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start tokio"))?;
    runtime.block_on(service::serve())
}

use error::Error;
