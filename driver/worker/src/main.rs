//! Reads what tenants and registries send, in a process that has no rights, no network and a bound to all that it may take.
//! Started by zun-kata-compute with its work's folder as its directory.

mod filter;
mod root;

use std::io::{stdin, stdout};
use std::process::ExitCode;

use clap::Parser;
use confinement::Nobody;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Most open files, and most processes and threads of a worker.
const FILES_MAX: u64 = 1024;
const THREADS_MAX: u64 = 1024;

/// Reads and writes container images as ordered on its standard input. Started by zun-kata-compute, not by hand.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The user, and the group, that it becomes.
    #[arg(long)]
    user: u32,
    /// Bytes of memory that it may take.
    #[arg(long)]
    memory: u64,
    /// Seconds of processor time that it may take.
    #[arg(long)]
    seconds: u64,
    /// Bytes of the largest file that it may write.
    #[arg(long)]
    file_size: u64,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Confinement(#[from] confinement::Error),
    #[error("cannot {0}: {1}")]
    System(&'static str, nix::Error),
    #[error("cannot bound system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    #[error("cannot have a root of its own: {0}")]
    Root(std::io::Error),
    #[error("cannot be the first to go where memory is short: {0}")]
    Score(std::io::Error),
    #[error("cannot read orders or write reports: {0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    fn system(what: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |e| Self::System(what, e)
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// What works is the first process of a PID namespace: once that has ended, nobody is left who writes to its files.
fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    match confinement::fork_in_pid_namespace()? {
        ForkResult::Parent { child } => end_as(child),
        ForkResult::Child => {
            confine(arguments)?;
            image_work::work(stdin().lock(), stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Waits for a process, and ends as it does.
fn end_as(process: Pid) -> Result<ExitCode, Error> {
    match waitpid(process, None).map_err(Error::system("wait for the process that works"))? {
        WaitStatus::Exited(_, 0) => Ok(ExitCode::SUCCESS),
        WaitStatus::Signaled(_, signal, _) => {
            raise(signal).map_err(Error::system("end as the process that worked"))?;
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::FAILURE),
    }
}

fn confine(arguments: &Arguments) -> Result<(), Error> {
    // Where the service's memory is short, what reads an image goes first.
    std::fs::write("/proc/self/oom_score_adj", "1000").map_err(Error::Score)?;
    confinement::yield_processors()?;
    let nobody = Nobody::new(arguments.user)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
        .map_err(Error::system("make namespaces"))?;
    root::change().map_err(Error::Root)?;
    confinement::limit(&[
        (Resource::RLIMIT_AS, arguments.memory),
        (Resource::RLIMIT_CPU, arguments.seconds),
        (Resource::RLIMIT_FSIZE, arguments.file_size),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_CORE, 0),
    ])?;
    nobody.become_it()?;
    // In its own user namespace a worker's processes are counted by themselves, if the bound is set in there.
    confinement::limit(&[(Resource::RLIMIT_NPROC, THREADS_MAX)])?;
    // The service kills the process that it has started. A change of the user would undo this. One that is killed before leaves
    // no orders to read.
    set_pdeathsig(Signal::SIGKILL).map_err(Error::system("end with its parent"))?;
    Ok(filter::apply()?)
}
