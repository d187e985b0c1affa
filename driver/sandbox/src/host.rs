use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use shim_control::{
    Client, ClientError, ContainerExit, DiskSlot, LogLimits, Origin, Phase, SandboxDir, SandboxPlan,
    SandboxState,
};
use tokio::sync::Semaphore;

use crate::cgroup::{Cgroups, Limits};
use crate::error::{Error, Result};
use crate::launch::{self, Allotment, SandboxSpec, VolumeDisk};
use crate::pinning::CpuPinning;
use crate::shims;
use crate::size::Size;
use crate::templates::Templates;
use crate::usage::Usage;
use crate::users::Users;

/// How long a shim that was killed may take to go: longer than storage that does not answer is waited for, since a thread that
/// waits for its disk ends only then.
const KILL_TIMEOUT: Duration = Duration::from_secs(150);
/// Between two looks for a shim that was killed: at first, and at most.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long a guest may take to end in order: longer than storage that does not answer is waited for.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(180);
/// Guests that come up at once for each processor: while one waits for its disk another can run.
const TURNS_A_PROCESSOR: usize = 2;

/// How sandboxes are made on this host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Below which each sandbox has its folder.
    pub folder: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest image.
    pub image: PathBuf,
    /// Memory that a guest gets above its containers', in MiB.
    pub memory_overhead_mib: u64,
    /// Virtual CPUs to which a sandbox may grow while it runs, where it does not begin with more.
    pub vcpus_max: u8,
    /// Memory in MiB to which a guest may grow while it runs, where it does not begin with more.
    pub memory_max_mib: u64,
    /// Where templates are kept, on the same file system as `folder`.
    pub templates: PathBuf,
    /// Bytes that all templates together may take.
    pub template_bytes: u64,
    /// Where it is kept which user of the host is which sandbox's.
    pub users: PathBuf,
    /// The first of the users that are sandboxes'.
    pub first_user: u32,
    /// The control group below which each sandbox has its own, relative to the root of all.
    pub cgroup: PathBuf,
    /// Bytes of one log file.
    pub log_file_bytes: u64,
    /// Log files kept.
    pub log_files: u32,
}

impl HostOptions {
    pub(crate) fn log_limits(&self) -> LogLimits {
        LogLimits { file_bytes: self.log_file_bytes, files: self.log_files }
    }
}

/// All sandboxes of this host.
#[derive(Debug, Clone)]
pub struct Host {
    options: HostOptions,
    templates: Templates,
    users: Users,
    cgroups: Option<Cgroups>,
    /// Turns to bring guests up: more at once than there are processors for would only make all slow. What runs in one's
    /// turn is ours, and no tenant's: nobody can keep it.
    turns: Arc<Semaphore>,
}

/// One sandbox, running or not.
#[derive(Debug, Clone)]
pub struct Sandbox {
    id: String,
    folder: SandboxDir,
    host: Host,
}

/// What has become of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Situation {
    /// Its guest is up.
    Live(SandboxState),
    /// Its guest has ended, and this is what its shim left.
    Over(SandboxState),
    /// It never was started, or its shim was killed before it could say anything.
    Unknown,
}

impl Situation {
    /// Whether the process of `container` has been started and has not ended.
    pub fn runs(&self, container: &str) -> bool {
        matches!(self, Self::Live(state) if state.containers.get(container) == Some(&None))
    }
}

impl Host {
    /// Makes the folder if there is none; only root may look into it.
    pub fn new(options: HostOptions) -> Result<Self> {
        let folder = &options.folder;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Error::io("make", folder))?;
        let templates = Templates::open(&options.templates, options.template_bytes)?;
        let users = Users::open(&options.users, options.first_user)?;
        let cgroups = Cgroups::open(&options.cgroup)?;
        if cgroups.is_none() {
            tracing::warn!("this host has no cgroup v2: what sandboxes take is not limited");
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(processors * TURNS_A_PROCESSOR));
        Ok(Self { options, templates, users, cgroups, turns })
    }

    /// The sandbox `id`, whether it exists or not.
    pub fn sandbox(&self, id: &str) -> Sandbox {
        let folder = SandboxDir::new(self.options.folder.join(id));
        Sandbox { id: id.to_owned(), folder, host: self.clone() }
    }

    /// Identifiers of all sandboxes that have a folder.
    pub fn list(&self) -> Result<Vec<String>> {
        let folder = &self.options.folder;
        let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }
}

impl Host {
    /// What has become of each sandbox that has a folder, by what the shims have written. Nobody is asked, and the host's
    /// processes are looked at once.
    pub fn survey(&self) -> Result<BTreeMap<String, Situation>> {
        let shims: HashSet<PathBuf> = shims::running(&self.options.shim).map(|(_, folder)| folder).collect();
        let all = self.list()?.into_iter().map(|id| {
            let sandbox = self.sandbox(&id);
            let situation = sandbox.written_state(shims.contains(sandbox.path()));
            (id, situation)
        });
        Ok(all.collect())
    }
}

impl Sandbox {
    /// Makes the folder.
    pub fn create(&self) -> Result<()> {
        let path = self.folder.path();
        fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("make", path))
    }

    /// Whether it has a folder.
    pub fn exists(&self) -> bool {
        self.folder.path().exists()
    }

    /// Its folder, in which the caller may keep files of its own.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Brings the guest up and waits until it is ready. A template that turns out to be of no use is forgotten, and the
    /// guest boots.
    pub async fn start(&self, spec: &SandboxSpec) -> Result<SandboxState> {
        spec.validate()?;
        let state = self.bring_up(spec).await?;
        if let (Some(pinning), Some(shim)) = (&spec.pinning, self.shim_pid())
            && let Err(e) = pinning.apply(shim)
        {
            self.kill().await?;
            return Err(e);
        }
        if let Err(e) = self.join(spec).await {
            self.kill().await?;
            return Err(e);
        }
        Ok(state)
    }

    async fn join(&self, spec: &SandboxSpec) -> Result<()> {
        for VolumeDisk { name, path, limit } in &spec.volumes {
            self.insert_disk(name.clone(), path, DiskSlot::ReadWrite, *limit).await?;
        }
        for nic in &spec.network.nics {
            self.attach(nic, spec.nic_limit).await?;
        }
        self.set_network(&spec.network, &spec.hostname).await
    }

    async fn bring_up(&self, spec: &SandboxSpec) -> Result<SandboxState> {
        let Host { options, templates, .. } = &self.host;
        let mut plan = spec.plan(&self.id, options, self.allot(spec)?);
        let Some(group) = &spec.template_group else { return self.launch(&plan).await };
        let start = templates.start(group, &plan, &options.shim)?;
        plan.origin = start.origin.clone();
        let mut launched = self.launch(&plan).await;
        if let (Err(e), Origin::Template(template)) = (&launched, &start.origin) {
            tracing::warn!(template = %template.display(), "a template is forgotten, the guest boots: {e}");
            templates.discard(template)?;
            plan.origin = Origin::Boot;
            launched = self.launch(&plan).await;
        }
        if let (Ok(state), Origin::Template(template)) = (&launched, &plan.origin)
            && !state.from_template
        {
            templates.discard(template)?;
        }
        if launched.is_ok()
            && let Err(e) = templates.finish(start, &self.folder.run().template())
        {
            tracing::warn!("the sandbox goes on without its template being kept: {e}");
        }
        launched
    }

    /// What it has for itself on this host; the same at each start.
    fn allot(&self, spec: &SandboxSpec) -> Result<Allotment> {
        let size = Size { cpus: spec.cpus, memory_mib: spec.memory_mib };
        let cgroup = self.limit(size, spec.pinning.clone())?;
        Ok(Allotment { user: self.host.users.claim(self.folder.path())?, cgroup })
    }

    /// Bounds what its shim takes to what containers of this size need.
    fn limit(&self, size: Size, pinning: Option<CpuPinning>) -> Result<Option<PathBuf>> {
        let Host { options, cgroups, .. } = &self.host;
        let memory_mib = size.memory_mib + options.memory_overhead_mib;
        let limits = Limits { cpus: size.cpus, memory_mib, pinning };
        cgroups.as_ref().map(|cgroups| cgroups.limit(&self.id, &limits)).transpose()
    }

    /// As [`Self::limit`], but the bound of memory is never lowered: a guest gives memory back when it can, and would be
    /// killed for what it still has.
    pub(crate) fn limit_running(&self, size: Size) -> Result<()> {
        let bound = self.host.cgroups.as_ref().map_or(0, |cgroups| cgroups.memory_mib(&self.id));
        let least = bound.saturating_sub(self.host.options.memory_overhead_mib);
        self.limit(Size { memory_mib: size.memory_mib.max(least), ..size }, None).map(|_| ())
    }

    /// What it was last started with.
    pub(crate) fn plan(&self) -> Result<SandboxPlan> {
        self.folder.read_plan().map_err(Error::io("read the plan in", self.folder.path()))
    }

    /// Pairs of queues that each of its interfaces has since it was last started.
    pub fn queue_pairs(&self) -> Result<u8> {
        Ok(self.plan()?.queue_pairs())
    }

    async fn launch(&self, plan: &SandboxPlan) -> Result<SandboxState> {
        let _turn = self.host.turns.acquire().await;
        self.folder.write_plan(plan).map_err(Error::io("write the plan in", self.folder.path()))?;
        let started = launch::start(&self.folder, &self.host.options).await;
        if started.is_err() {
            self.kill().await?;
        }
        started
    }

    /// What has become of it. The shim is asked; where it does not answer, what it wrote is read.
    pub async fn situation(&self) -> Situation {
        match self.client().state().await {
            Ok(state) if state.is_live() => Situation::Live(state),
            Ok(state) => Situation::Over(state),
            Err(_) => self.written_situation(),
        }
    }

    fn written_situation(&self) -> Situation {
        // Looked for first: what a shim wrote is final once it is gone.
        let shim_lives = self.shim_pid().is_some();
        self.written_state(shim_lives)
    }

    fn written_state(&self, shim_lives: bool) -> Situation {
        match self.folder.run().read_state() {
            Ok(state) if !state.is_live() => Situation::Over(state),
            Ok(state) if shim_lives => Situation::Live(state),
            // The shim died without a word: its containers ended with it, killed.
            Ok(state) => Situation::Over(killed(state)),
            Err(_) => Situation::Unknown,
        }
    }

    /// Stops its processors.
    pub async fn pause(&self) -> Result<()> {
        Ok(self.client().pause().await?)
    }

    /// Lets its processors go on.
    pub async fn resume(&self) -> Result<()> {
        Ok(self.client().resume().await?)
    }

    /// What it has taken of this host; none if it does not run.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.shim_pid()?)
    }

    /// Ends the guest in order. One that has ended is as good.
    pub async fn shut_down(&self) -> Result<()> {
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, self.client().shutdown()).await {
            Ok(Ok(()) | Err(ClientError::Gone(_))) => self.kill().await,
            Ok(Err(e)) => Err(e.into()),
            Err(_) => {
                tracing::warn!("the guest did not end in order within {} s", SHUTDOWN_TIMEOUT.as_secs());
                self.kill().await
            }
        }
    }

    /// Ends the shim, and the guest with it, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        let gone = async {
            let mut pause = PAUSE;
            // Looked for each time: a shim that just starts is two processes, of which the first ends by itself.
            while let Some(pid) = self.shim_pid() {
                match kill(pid, UnixSignal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => tokio::time::sleep(pause).await,
                    Err(e) => {
                        return Err(Error::Start(format!("its shim, process {pid}, cannot be ended: {e}")));
                    }
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Ok(())
        };
        let ended = tokio::time::timeout(KILL_TIMEOUT, gone).await;
        ended.unwrap_or_else(|_| {
            Err(Error::Start(format!("its shim has not ended within {} s", KILL_TIMEOUT.as_secs())))
        })
    }

    /// Ends the guest and removes all that belongs to the sandbox.
    pub async fn delete(&self) -> Result<()> {
        self.kill().await?;
        if let Some(cgroups) = &self.host.cgroups {
            cgroups.remove(&self.id).await?;
        }
        self.host.users.release(self.folder.path())?;
        self.remove_folder()
    }

    /// The shim's process, as long as one of its threads is there.
    pub fn shim_pid(&self) -> Option<Pid> {
        shims::running(&self.host.options.shim)
            .find(|(_, folder)| folder == self.folder.path())
            .map(|(pid, _)| pid)
    }

    fn remove_folder(&self) -> Result<()> {
        match fs::remove_dir_all(self.folder.path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.folder.path())(e))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn folder(&self) -> &SandboxDir {
        &self.folder
    }

    pub(crate) fn options(&self) -> &HostOptions {
        &self.host.options
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.folder.control_socket())
    }
}

/// Why a sandbox failed, if it did.
pub fn failure(state: &SandboxState) -> Option<String> {
    match &state.phase {
        Phase::Failed { reason } => Some(reason.clone()),
        _ => None,
    }
}

fn killed(state: SandboxState) -> SandboxState {
    const STATUS_KILLED: i32 = 137;
    let at = time::OffsetDateTime::now_utc();
    let exit = || Some(ContainerExit { status: STATUS_KILLED, oom_killed: false, at });
    SandboxState {
        phase: Phase::Failed { reason: "the sandbox's shim was killed".into() },
        containers: state.containers.into_iter().map(|(id, end)| (id, end.or_else(exit))).collect(),
        ..state
    }
}
