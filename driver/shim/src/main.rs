//! The process of one sandbox: it runs the sandbox's machine, keeps its containers' output and exit status, and serves
//! requests on a control socket. It outlives the service that started it.

mod agent;
mod archive;
mod aside;
mod containers;
mod device_slots;
mod diagnostics;
mod error;
mod guest;
mod jail;
mod log;
mod machine;
mod output;
mod resize;
mod sandbox;
mod server;
mod supervisor;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use shim_control::SandboxDir;

/// Runs one sandbox. Started by zun-kata-compute, not by hand.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The sandbox's folder, which holds plan.json.
    folder: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    diagnostics::start();
    let folder = SandboxDir::new(arguments.folder);
    jail::in_new_process(|| match sandbox::run(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    })
    .unwrap_or_else(|e| {
        tracing::error!("{e}");
        ExitCode::FAILURE
    })
}
