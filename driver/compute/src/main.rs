//! `zun-kata-compute`: consumes Zun's RPC and runs each container in a KVM sandbox of its own.

mod error;
mod host_facts;
mod manager;
mod networking;
mod options;
mod record;
mod recovery;
mod resources;
mod service;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use oslo::{ConfigFiles, default_config_files};

use crate::options::Options;

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
    /// Say whether this host can run sandboxes, and why not, then exit.
    Check,
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
    start_logging(&options);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("zun-kata-compute: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match arguments.command {
            Some(Command::Check) => service::check(&options).await,
            None => service::run(options).await,
        }
    })
}

fn read_options(arguments: &Arguments) -> Result<Options, String> {
    let files = if arguments.config_files.is_empty() && arguments.config_directories.is_empty() {
        default_config_files("zun")
    } else {
        ConfigFiles::new(arguments.config_files.clone(), arguments.config_directories.clone())
    };
    Options::read(files)
}

fn start_logging(options: &Options) {
    let default = if options.default.debug { "debug,hyper=info,lapin=info,sqlx=info" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}
