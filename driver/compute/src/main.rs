//! `zun-kata-compute`: consumes Zun's RPC and runs each container in a KVM sandbox of its own.

mod assembly;
mod belongings;
mod cli;
mod console;
mod containers;
mod counted;
mod creations;
mod engine;
mod error;
mod executor;
mod health;
mod heartbeat;
mod host_facts;
mod host_names;
mod images;
mod interfaces;
mod kept;
mod lifecycle;
mod manager;
mod metrics;
mod networking;
mod operation;
mod options;
mod orphans;
mod periodic;
mod pins;
mod record;
mod resources;
mod rows;
mod rpc;
mod service;
mod services;
#[cfg(test)]
mod simulation;
mod stray_allocations;
mod turns;
mod volumes;
mod zun;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use oslo::{ConfigFiles, default_config_files};

use crate::cli::images::ImagesCommand;
use crate::cli::sandbox::SandboxCommand;
use crate::options::{ConfigError, Options};

/// Zun's compute service: every container in a KVM sandbox of its own.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file; may be given several times. Without any, zun.conf is looked for where Zun looks.
    #[arg(long = "config-file", value_name = "PATH")]
    config_files: Vec<PathBuf>,
    /// Folder whose *.conf are read after the files.
    #[arg(long = "config-dir", value_name = "PATH")]
    config_directories: Vec<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Try the broker, the database, Keystone, Placement, Neutron, the image store, control groups and KVM; print a verdict
    /// a line, and fail if one is bad.
    Check,
    /// Run images in sandboxes of this host, and look into those that run, without OpenStack.
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Look after the images that this host keeps, without OpenStack.
    #[command(subcommand)]
    Images(ImagesCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Another provider can only be this one, installed twice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = match read_options(&arguments) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("zun-kata-compute: {e}");
            return ExitCode::from(2);
        }
    };
    start_logging(log_filter(&arguments, &options));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("zun-kata-compute: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match arguments.command {
            Some(Command::Check) => cli::check::check(&options).await,
            Some(Command::Sandbox(command)) => cli::sandbox::run(&options, command).await,
            Some(Command::Images(command)) => cli::images::run(&options, command).await,
            None => service::run(options).await,
        }
    })
}

/// More processors than these would only bring more memory: what takes time here waits.
fn worker_threads() -> usize {
    const MOST: usize = 4;
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST)
}

fn read_options(arguments: &Arguments) -> Result<Options, ConfigError> {
    let files = if arguments.config_files.is_empty() && arguments.config_directories.is_empty() {
        default_config_files("zun")
    } else {
        ConfigFiles::new(arguments.config_files.clone(), arguments.config_directories.clone())
    };
    let options = Options::read(files)?;
    // Who asks for no service need not say where OpenStack is.
    if !matches!(arguments.command, Some(Command::Sandbox(_) | Command::Images(_))) {
        options.validate()?;
    }
    Ok(options)
}

/// What is logged unless the environment's RUST_LOG says otherwise.
fn log_filter(arguments: &Arguments, options: &Options) -> &'static str {
    match arguments.command {
        Some(Command::Sandbox(_) | Command::Images(_)) => "warn",
        _ if options.default.debug => "debug,hyper=info,lapin=info,sqlx=info",
        _ => "info",
    }
}

fn start_logging(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        // Where a log cannot be written, that would be said on the standard error, with a panic where this fails, too.
        .log_internal_errors(false)
        .init();
}
