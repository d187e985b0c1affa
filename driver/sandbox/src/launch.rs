//! Starting a sandbox: its plan and its shim.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use shim_control::{
    Client, ClientError, DiskSlot, Origin, Phase, RateLimit, SandboxDir, SandboxPlan, SandboxState,
    queue_pairs,
};
use tokio::io::AsyncReadExt;

use crate::error::{Error, Result};
use crate::files;
use crate::host::HostOptions;
use crate::interfaces::GuestNetwork;
use crate::pinning::CpuPinning;
use crate::size::Size;

/// Most vCPUs of a sandbox.
pub const VCPUS_MAX: u8 = 32;
/// Longest wait for a shim's word on its guest; longer than the shim waits for the guest.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// Most containers of a sandbox: each has two slots for disks, and an interrupt line of the machine goes with each slot.
const CONTAINERS_MAX: u8 = 4;
/// Slots for disks of each container: its image, and what it writes.
const CONTAINER_SLOTS: [DiskSlot; 2] = [DiskSlot::ReadOnly, DiskSlot::ReadWrite];
/// Most volumes of a sandbox: so many slots for them has each.
pub const VOLUMES_MAX: usize = 3;
/// Slots for interfaces that each sandbox has.
const NIC_SLOTS: u8 = 4;

/// A sandbox as its caller wants it.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// CPUs.
    pub cpus: f32,
    /// Memory of its containers in MiB; what the guest itself needs is added.
    pub memory_mib: u64,
    /// The guest's host name.
    pub hostname: String,
    /// Containers that it may have at one time.
    pub containers: u8,
    /// The network.
    pub network: GuestNetwork,
    /// Disks that its containers may mount.
    pub volumes: Vec<VolumeDisk>,
    /// The container whose end ends the sandbox.
    pub ends_with: Option<String>,
    /// The group of sandboxes with which it may share a template; none boots and shares nothing.
    pub template_group: Option<String>,
    /// What it may move through each interface, in each direction.
    pub nic_limit: RateLimit,
    /// CPUs of the host that it has to itself, one for each vCPU; it cannot come to have more.
    pub pinning: Option<CpuPinning>,
}

/// A disk of a sandbox's that is no container's own.
#[derive(Debug, Clone)]
pub struct VolumeDisk {
    /// What it is called in the sandbox.
    pub name: String,
    /// The block device or raw file of this host.
    pub path: PathBuf,
    /// What may be moved.
    pub limit: RateLimit,
}

/// What of the host a sandbox has for itself.
pub struct Allotment {
    /// Its user.
    pub user: u32,
    /// Its control group.
    pub cgroup: Option<PathBuf>,
}

impl SandboxSpec {
    /// Says what cannot be had, before anything is made.
    pub fn validate(&self) -> Result<()> {
        Size { cpus: self.cpus, memory_mib: self.memory_mib }.validate()?;
        if self.containers > CONTAINERS_MAX {
            return Err(Error::Containers { asked: self.containers, most: CONTAINERS_MAX });
        }
        if self.volumes.len() > VOLUMES_MAX {
            return Err(Error::Volumes { asked: self.volumes.len(), most: VOLUMES_MAX });
        }
        if self.network.nics.len() > usize::from(NIC_SLOTS) {
            return Err(Error::Nics { asked: self.network.nics.len(), most: NIC_SLOTS });
        }
        Ok(())
    }

    /// Pairs of queues that each of its interfaces will have.
    pub fn queue_pairs(&self) -> u8 {
        queue_pairs(vcpus(self.cpus))
    }

    /// The same sandbox without a network.
    pub fn without_network(self) -> Self {
        Self { network: GuestNetwork::default(), ..self }
    }

    pub(crate) fn plan(&self, id: &str, options: &HostOptions, host: Allotment) -> SandboxPlan {
        let memory_mib = self.memory_mib + options.memory_overhead_mib;
        let vcpus_max = if self.pinning.is_some() { 1 } else { options.vcpus_max.min(VCPUS_MAX) };
        SandboxPlan {
            id: id.to_owned(),
            vcpus: vcpus(self.cpus),
            vcpus_max: vcpus(self.cpus).max(vcpus_max),
            memory_mib,
            memory_max_mib: memory_mib.max(options.memory_max_mib),
            kernel: options.kernel.clone(),
            image: options.image.clone(),
            hostname: self.hostname.clone(),
            user: host.user,
            cgroup: host.cgroup,
            origin: Origin::Boot,
            disk_slots: [
                CONTAINER_SLOTS.repeat(self.containers.into()),
                vec![DiskSlot::ReadWrite; VOLUMES_MAX],
            ]
            .concat(),
            nic_slots: NIC_SLOTS,
            ends_with: self.ends_with.clone(),
            log: options.log_limits(),
        }
    }
}

/// Virtual CPUs that it takes to use so many.
pub fn vcpus(cpus: f32) -> u8 {
    cpus.ceil().clamp(1.0, f32::from(VCPUS_MAX)) as u8
}

/// Starts the shim on a folder that holds a plan, and waits until its guest is ready.
pub async fn start(folder: &SandboxDir, options: &HostOptions) -> Result<SandboxState> {
    forget_last_run(folder)?;
    let log = File::create(folder.shim_log()).map_err(Error::io("make", folder.shim_log()))?;
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
    shim.wait().await.map_err(Error::io("wait for", &options.shim))?;
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
    let log = std::fs::read_to_string(folder.shim_log()).unwrap_or_default();
    log.lines().last().map_or_else(|| otherwise.to_owned(), str::to_owned)
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

fn forget_last_run(folder: &SandboxDir) -> Result<()> {
    let run = folder.run();
    match std::fs::DirBuilder::new().mode(0o700).create(run.path()) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("make", run.path())(e));
        }
        _ => {}
    }
    [folder.control_socket(), run.vsock_socket(), run.state()].iter().try_for_each(|path| files::remove(path))
}
