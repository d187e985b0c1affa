//! `zun-kata-compute sandbox`: an operator's sandboxes, which Zun knows nothing of, and a look into all of this host.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use image::{ImageReference, PullPolicy};
use sandbox::{Exec, Host, LogQuery, Phase, RateLimit, Sandbox, SandboxState, SandboxStatus, Size, Tail};
use serde_json::Value;
use uuid::Uuid;

use super::{orphans, progress_bar};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::record::{Member, NewMember, SandboxRecord};

const NAME_MAX: usize = 63;
const MEBIBYTE: u64 = 1 << 20;
/// The owner of sandboxes that are no project's.
const OPERATOR: &str = "operator";

/// What to do.
#[derive(Subcommand)]
pub enum SandboxCommand {
    /// Run an image in a sandbox of its own, without a network, and print the sandbox's name.
    Run(Run),
    /// List the sandboxes of this host, Zun's and the operator's.
    List,
    /// Run a command in a sandbox's container, print what it prints, and end with its status.
    Exec {
        /// The sandbox.
        sandbox: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print what a sandbox's container has written.
    Logs {
        /// The sandbox.
        sandbox: String,
        /// Only so many lines of the end.
        #[arg(long)]
        tail: Option<usize>,
        /// Print each line's time before it.
        #[arg(long)]
        timestamps: bool,
    },
    /// Print what a sandbox's container uses.
    Stats {
        /// The sandbox.
        sandbox: String,
    },
    /// Change what an operator's running sandbox may use.
    Update {
        /// The sandbox.
        sandbox: String,
        /// CPUs of the container.
        #[arg(long)]
        cpus: Option<f32>,
        /// MiB of memory.
        #[arg(long)]
        memory: Option<u64>,
    },
    /// Stop the processors of an operator's sandbox.
    Pause {
        /// The sandbox.
        sandbox: String,
    },
    /// Let them go on.
    Resume {
        /// The sandbox.
        sandbox: String,
    },
    /// List the sandboxes of this host that Zun's database has no container of, or remove one with all that Neutron and Placement
    /// have of it.
    Orphans {
        /// Remove this one.
        #[arg(long, value_name = "UUID")]
        remove: Option<Uuid>,
    },
    /// List what could not be given back of containers that were deleted by force. The service tries it again every minute.
    Debts,
    /// End an operator's sandbox and remove all it has.
    Delete {
        /// The sandbox.
        sandbox: String,
    },
}

/// A sandbox to run.
#[derive(Args)]
pub struct Run {
    /// The sandbox's name; one is made up if none is given.
    #[arg(long)]
    name: Option<String>,
    /// CPUs of the container.
    #[arg(long, default_value_t = 1.0)]
    cpus: f32,
    /// MiB of memory.
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// GiB of disk.
    #[arg(long, default_value_t = 10)]
    disk: u64,
    /// NAME=value; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// The directory in which the program starts.
    #[arg(long)]
    workdir: Option<String>,
    /// Bytes a second that it may move through each of its disks; 0 is no bound.
    #[arg(long)]
    disk_bytes: Option<u64>,
    /// Requests a second to each of its disks; 0 is no bound.
    #[arg(long)]
    disk_operations: Option<u64>,
    /// Let the container do all to its sandbox's guest.
    #[arg(long)]
    privileged: bool,
    /// A file whose JSON is merged into the container's OCI runtime specification (RFC 7396): null removes.
    #[arg(long, value_name = "FILE")]
    oci: Option<PathBuf>,
    /// always, ifnotpresent or never.
    #[arg(long, default_value = "ifnotpresent")]
    pull: PullPolicy,
    /// Wait for the container's end, print what it wrote, end with its status, and delete the sandbox.
    #[arg(long)]
    wait: bool,
    /// The image.
    image: String,
    /// The command and its arguments, in place of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Does it, and gives the exit status of this program.
pub async fn run(options: &Options, command: SandboxCommand) -> ExitCode {
    let done = match Sandboxes::new(options) {
        Ok(sandboxes) => sandboxes.perform(command).await,
        Err(e) => Err(e),
    };
    done.unwrap_or_else(|e| {
        eprintln!("zun-kata-compute: {e}");
        ExitCode::FAILURE
    })
}

/// All sandboxes of this host.
struct Sandboxes<'a> {
    options: &'a Options,
    operators: Host,
    zuns: Host,
}

impl<'a> Sandboxes<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let (operators, zuns) = (Host::new(options.operators_host())?, Host::new(options.host())?);
        Ok(Self { options, operators, zuns })
    }

    async fn perform(&self, command: SandboxCommand) -> Result<ExitCode> {
        match command {
            SandboxCommand::Run(run) => return self.run(run).await,
            SandboxCommand::List => self.list().await?,
            SandboxCommand::Exec { sandbox, command } => return self.exec(&sandbox, &command).await,
            SandboxCommand::Logs { sandbox, tail, timestamps } => {
                let tail = tail.map_or(Tail::All, Tail::Lines);
                let query = LogQuery { stdout: true, stderr: true, timestamps, tail, since: None };
                show(&self.find(&sandbox)?.logs(&sandbox, &query)?)?;
            }
            SandboxCommand::Stats { sandbox } => self.stats(&sandbox).await?,
            SandboxCommand::Update { sandbox, cpus, memory } => self.update(&sandbox, cpus, memory).await?,
            SandboxCommand::Orphans { remove: None } => show(&orphans::list(self.options).await?)?,
            SandboxCommand::Orphans { remove: Some(uuid) } => orphans::remove(self.options, uuid).await?,
            SandboxCommand::Debts => show(&orphans::debts(self.options)?)?,
            SandboxCommand::Pause { sandbox } => self.own(&sandbox)?.pause().await?,
            SandboxCommand::Resume { sandbox } => self.own(&sandbox)?.resume().await?,
            SandboxCommand::Delete { sandbox } => self.own(&sandbox)?.delete().await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn run(&self, run: Run) -> Result<ExitCode> {
        let name = run.name.clone().unwrap_or_else(|| format!("sandbox-{}", short_random()));
        check_name(&name)?;
        let reference = ImageReference::parse(&run.image, self.options.docker.default_registry.as_deref())?;
        let store = self.options.image_store()?;
        let image = progress_bar::pull(&store, &reference, run.pull).await?;
        let member = Member::new(run.member(&name, self.options.kata.disk_limit())?, &image)?;
        let record = SandboxRecord::of_container(OPERATOR.into(), member);
        let spec = record.sandbox_spec(&self.options.kata);
        spec.validate()?;
        let sandbox = self.operators.sandbox(&name);
        sandbox.create()?;
        let started = async {
            sandbox.make_disk(&name, run.disk).await?;
            record.write(sandbox.path())?;
            sandbox.start(&spec).await?;
            Ok(sandbox.run(&record.member(&name)?.container).await?)
        };
        if let Err(e) = started.await {
            sandbox.delete().await?;
            return Err(e);
        }
        if run.wait {
            return see_end(&sandbox, &name).await;
        }
        show(&format!("{name}\n"))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn list(&self) -> Result<()> {
        let mut table = format!("{:<38} {:<9} {:<9} CONTAINER\n", "SANDBOX", "OWNER", "STATE");
        for (host, owner) in [(&self.zuns, "Zun"), (&self.operators, "operator")] {
            let mut names = host.list()?;
            names.sort();
            for name in names {
                let (state, container) = described(&host.sandbox(&name).status().await, &name);
                table.push_str(&format!("{name:<38} {owner:<9} {state:<9} {container}\n"));
            }
        }
        show(&table)
    }

    async fn exec(&self, name: &str, command: &[String]) -> Result<ExitCode> {
        let sandbox = self.find(name)?;
        let spec = SandboxRecord::read(sandbox.path())?.member(name)?.container.clone();
        let process = spec.process(command, false)?;
        let result =
            sandbox.exec(Exec { container: spec.id, process, user: spec.user, time_limit: None }).await?;
        show(&result.output)?;
        Ok(exit_code(result.status))
    }

    async fn update(&self, name: &str, cpus: Option<f32>, memory: Option<u64>) -> Result<()> {
        let sandbox = self.own(name)?;
        let mut record = SandboxRecord::read(sandbox.path())?;
        let spec = &mut record.member_mut(name)?.container;
        let had = Size { cpus: spec.cpus, memory_mib: spec.memory_mib };
        let size = Size { cpus: cpus.unwrap_or(had.cpus), memory_mib: memory.unwrap_or(had.memory_mib) };
        sandbox.update(&spec.id, had, size).await?;
        (spec.cpus, spec.memory_mib) = (size.cpus, size.memory_mib);
        record.write(sandbox.path())
    }

    async fn stats(&self, name: &str) -> Result<()> {
        let stats = self.find(name)?.stats(name).await?;
        let mebibytes = |bytes: u64| bytes / MEBIBYTE;
        let mut text = format!(
            "processor time  {:.3} s\nmemory          {} of {} MiB\nprocesses       {}\n\
             disk            {} bytes read, {} written\n",
            stats.cpu_ns as f64 / 1e9,
            mebibytes(stats.memory_bytes),
            mebibytes(stats.memory_limit_bytes),
            stats.pids,
            stats.block_read_bytes,
            stats.block_write_bytes
        );
        for nic in stats.network {
            let (received, sent) = (nic.received_bytes, nic.sent_bytes);
            text.push_str(&format!("{:<15} {received} bytes received, {sent} sent\n", nic.name));
        }
        show(&text)
    }

    /// A sandbox of this host, whoever's it is.
    fn find(&self, name: &str) -> Result<Sandbox> {
        check_name(name)?;
        let mut both = [&self.operators, &self.zuns].into_iter().map(|host| host.sandbox(name));
        both.find(Sandbox::exists).ok_or_else(|| Error::NoSandbox(name.to_owned()))
    }

    /// A sandbox of the operator's: the state of Zun's is Zun's affair.
    fn own(&self, name: &str) -> Result<Sandbox> {
        let sandbox = self.find(name)?;
        if self.operators.sandbox(name).exists() {
            return Ok(sandbox);
        }
        let reason = format!("sandbox {name} is a Zun container's: use openstack appcontainer");
        Err(Error::Conflict(reason))
    }
}

impl Run {
    fn member(&self, name: &str, default: RateLimit) -> Result<NewMember> {
        let disk_limit = RateLimit {
            bytes: self.disk_bytes.unwrap_or(default.bytes),
            operations: self.disk_operations.unwrap_or(default.operations),
            ..default
        };
        Ok(NewMember {
            id: name.to_owned(),
            entrypoint: None,
            command: Some(self.command.clone()),
            environment: self.environment.clone(),
            directory: self.workdir.clone(),
            hostname: name.to_owned(),
            cpus: self.cpus,
            memory_mib: self.memory,
            terminal: false,
            interactive: false,
            disk_limit,
            privileged: self.privileged,
            oci: self.oci.as_deref().map(read_json).transpose()?.unwrap_or_default(),
        })
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let failed = |e: &dyn std::fmt::Display| Error::invalid("--oci", format!("{}: {e}", path.display()));
    let text = std::fs::read(path).map_err(|e| failed(&e))?;
    serde_json::from_slice(&text).map_err(|e| failed(&e))
}

/// Waits for a container's end, prints its log, and removes the sandbox whatever the end was.
async fn see_end(sandbox: &Sandbox, container: &str) -> Result<ExitCode> {
    let exit = sandbox.wait(container).await;
    let query = LogQuery { stdout: true, stderr: true, timestamps: false, tail: Tail::All, since: None };
    let log = sandbox.logs(container, &query);
    sandbox.delete().await?;
    show(&log?)?;
    Ok(exit_code(exit?.status))
}

/// Writes to standard output. A reader that has seen enough is no failure.
fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Output(e)),
        _ => Ok(()),
    }
}

fn short_random() -> String {
    Uuid::new_v4().simple().to_string().chars().take(8).collect()
}

/// A name becomes a folder's, a host's and a container's.
fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('-') {
        return Ok(());
    }
    let rule = format!("1 to {NAME_MAX} letters, digits and hyphens");
    Err(Error::invalid("sandbox", format!("{name:?} is no name of one, which has {rule}")))
}

fn described(status: &SandboxStatus, container: &str) -> (&'static str, String) {
    let state = match status {
        SandboxStatus::Live(state) | SandboxStatus::Over(state) => state,
        SandboxStatus::Unanswered => return ("unknown", "its shim does not answer".into()),
        SandboxStatus::Absent => return ("stopped", "never started".into()),
    };
    let phase = match state.phase {
        Phase::Booting => "booting",
        Phase::Ready => "running",
        Phase::Paused => "paused",
        Phase::Ended => "stopped",
        Phase::Failed { .. } => "failed",
    };
    (phase, container_state(state, container))
}

fn container_state(state: &SandboxState, container: &str) -> String {
    match (&state.phase, state.containers.get(container)) {
        (Phase::Failed { reason }, _) => reason.clone(),
        (_, Some(Some(exit))) => format!("exited with {}", exit.status),
        (_, Some(None)) => "runs".into(),
        (_, None) => "not started yet".into(),
    }
}

/// A container's status as this program's: 0 to 255, and what is more is not a program's.
fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(["a", "web-1", &"x".repeat(63)].iter().all(|name| check_name(name).is_ok()));
        for bad in ["", "-a", "a/b", "..", "a b", &"x".repeat(64)] {
            let error = check_name(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_and_zuns_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.kata.state_path = folder.path().to_owned();
        let sandboxes = Sandboxes::new(&options).unwrap();
        let error = |found: Result<Sandbox>| found.err().map(|e| e.to_string()).unwrap();
        assert_eq!(error(sandboxes.find("gone")), "there is no sandbox gone");
        std::fs::create_dir(sandboxes.zuns.sandbox("zuns").path()).unwrap();
        assert!(sandboxes.find("zuns").is_ok());
        assert!(error(sandboxes.own("zuns")).contains("openstack appcontainer"));
    }
}
