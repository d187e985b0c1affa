use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal as UnixSignal, kill};
use nix::unistd::Pid;
use shim_control::{Client, ClientError, DiskSlot, Origin, SandboxDir, SandboxPlan, SandboxState};

use crate::cgroup::Limits;
use crate::error::{Error, Result};
use crate::files;
use crate::host::Host;
use crate::host_options::HostOptions;
use crate::launch;
use crate::pinning::CpuPinning;
use crate::run_folder;
use crate::seccomp::SeccompRules;
use crate::shims;
use crate::size::Size;
use crate::spec::{HostResources, SandboxSpec, VolumeDisk};
use crate::status::SandboxStatus;
use crate::usage::Usage;
use crate::users::Users;

/// How long a shim that was killed may take to go: longer than storage that does not answer is waited for, since a thread that
/// waits for its disk ends only then.
const KILL_TIMEOUT: Duration = Duration::from_secs(150);
/// Between two looks for a shim that was killed: at first, and at most.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// One sandbox, running or not.
#[derive(Debug, Clone)]
pub struct Sandbox {
    id: String,
    folder: SandboxDir,
    host: Host,
}

impl Host {
    /// The sandbox `id`, whether it exists or not.
    pub fn sandbox(&self, id: &str) -> Sandbox {
        let folder = SandboxDir::new(self.options.folder.join(id));
        Sandbox { id: id.to_owned(), folder, host: self.clone() }
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

    /// Its identifier.
    pub fn id(&self) -> &str {
        &self.id
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
        let mut plan = spec.plan(&self.id, options, self.resources(spec).await?);
        let Some(group) = &spec.template_group else { return self.launch(&plan).await };
        let start = templates.start(group, &plan, &options.shim)?;
        plan.origin = start.origin.clone();
        let mut launched = self.launch(&plan).await;
        if let (Err(e), Origin::Template(template)) = (&launched, &start.origin) {
            tracing::warn!(sandbox = self.id, template = %template.display(), error = %e, "a template is forgotten, the guest boots");
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
            tracing::warn!(sandbox = self.id, error = %e, "it goes on without its template being kept");
        }
        launched
    }

    /// What it has for itself on this host; the same at each start.
    async fn resources(&self, spec: &SandboxSpec) -> Result<HostResources> {
        let size = Size { cpus: spec.cpus, memory_mib: spec.memory_mib };
        let cgroups = &self.host.cgroups;
        let cgroup = cgroups.group(&self.id);
        cgroups.limit(&cgroup, &self.limits(size, spec.pinning.clone()))?;
        Ok(HostResources { user: self.with_users(Users::claim).await?, cgroup })
    }

    /// Others may be waited for, on a thread that nobody else needs.
    async fn with_users<T: Send + 'static>(&self, work: fn(&Users, &Path) -> Result<T>) -> Result<T> {
        let (users, path) = (self.host.users.clone(), self.folder.path().to_owned());
        let done = tokio::task::spawn_blocking(move || work(&users, &path)).await;
        done.map_err(|_| Error::End("the work on users was cut short".into()))?
    }

    /// What its shim may take, for containers of this size.
    fn limits(&self, size: Size, pinning: Option<CpuPinning>) -> Limits {
        let options = &self.host.options;
        let memory_mib = size.memory_mib + options.memory_overhead_mib;
        Limits { cpus: size.cpus, cpu_limit: options.cpu_limit, memory_mib, pinning }
    }

    /// The control group of its shim: the one that it was started in, wherever new ones are made by now.
    pub(crate) fn group(&self) -> PathBuf {
        self.plan().ok().and_then(|plan| plan.cgroup).unwrap_or_else(|| self.host.cgroups.group(&self.id))
    }

    /// Bounds a shim that runs. The bound of memory is never lowered: a guest gives memory back when it can, and would be
    /// killed for what it still has.
    pub(crate) fn limit_running(&self, size: Size) -> Result<()> {
        let (cgroups, group) = (&self.host.cgroups, self.group());
        let least = cgroups.memory_mib(&group).saturating_sub(self.host.options.memory_overhead_mib);
        let size = Size { memory_mib: size.memory_mib.max(least), ..size };
        cgroups.limit(&group, &self.limits(size, None))
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
        self.renew_run_folder().await?;
        let started = {
            let _turn = self.host.turns.acquire().await;
            self.folder.write_plan(plan).map_err(Error::io("write the plan in", self.folder.path()))?;
            launch::start(&self.folder, &self.host.options).await
        };
        if started.is_err() {
            // A shim that failed before it entered its group is found by what it was started on.
            while let Some(pid) = shims::find(&self.host.options.shim, self.folder.path()) {
                self.end_process(pid)?;
                tokio::time::sleep(PAUSE).await;
            }
            self.kill().await?;
        }
        started
    }

    /// What a shim has left may take long to remove: others wait neither for a thread nor for a turn meanwhile.
    async fn renew_run_folder(&self) -> Result<()> {
        let folder = self.folder.clone();
        let renewed = tokio::task::spawn_blocking(move || run_folder::renew(&folder)).await;
        renewed.map_err(|_| Error::End("the renewal of its folder was cut short".into()))?
    }

    /// What has become of it. The shim is asked; where it is gone, what it wrote is read.
    pub async fn status(&self) -> SandboxStatus {
        match self.client().state().await {
            Ok(state) => {
                self.host.silent.forget(&self.id);
                if state.is_live() { SandboxStatus::Live(state) } else { SandboxStatus::Over(state) }
            }
            Err(ClientError::Gone(_)) => {
                // Looked for first: what a shim wrote is final once it is gone.
                let runs = self.shim_runs();
                SandboxStatus::written(self.folder.run().read_state(), runs)
            }
            Err(e) => {
                self.host.silent.note(&self.id);
                tracing::warn!(sandbox = self.id, error = %e, "a sandbox's status is not known");
                SandboxStatus::Unanswered
            }
        }
    }

    /// What has become of it, for those who only look: a shim that has just not answered is not asked again so soon.
    pub async fn glance(&self) -> SandboxStatus {
        if self.host.silent.is(&self.id) { SandboxStatus::Unanswered } else { self.status().await }
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

    /// Ends the guest in order. Idempotent: succeeds if it has ended.
    pub async fn shut_down(&self) -> Result<()> {
        match self.client().shutdown().await {
            Ok(()) | Err(ClientError::Gone(_)) => {}
            Err(e) => tracing::warn!(sandbox = self.id, error = %e, "the guest did not end in order"),
        }
        self.kill().await
    }

    /// Ends the shim, and the guest with it, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        let gone = async {
            let mut pause = PAUSE;
            while self.shim_runs() {
                self.host.cgroups.kill(&self.group())?;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Ok(())
        };
        let ended = tokio::time::timeout(KILL_TIMEOUT, gone).await;
        ended.unwrap_or_else(|_| {
            Err(Error::End(format!("its shim has not ended within {} s", KILL_TIMEOUT.as_secs())))
        })
    }

    fn end_process(&self, pid: Pid) -> Result<()> {
        match kill(pid, UnixSignal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(Error::End(format!("its shim, process {pid}, cannot be ended: {e}"))),
        }
    }

    /// Whether its shim has a thread that has not ended.
    pub(crate) fn shim_runs(&self) -> bool {
        self.host.cgroups.is_populated(&self.group())
    }

    /// Ends the guest and removes all that belongs to the sandbox.
    pub async fn delete(&self) -> Result<()> {
        self.kill().await?;
        self.host.cgroups.remove(&self.group()).await?;
        self.with_users(Users::release).await?;
        self.host.silent.forget(&self.id);
        let path = self.folder.path().to_owned();
        let removed = tokio::task::spawn_blocking(move || files::remove_folder(&path)).await;
        removed.map_err(|_| Error::End("the removal of its folder was cut short".into()))?
    }

    /// The shim's process, as long as one of its threads is there.
    pub fn shim_pid(&self) -> Option<Pid> {
        self.host.cgroups.processes(&self.group()).first().copied()
    }

    pub(crate) fn folder(&self) -> &SandboxDir {
        &self.folder
    }

    pub(crate) fn options(&self) -> &HostOptions {
        &self.host.options
    }

    pub(crate) fn seccomp(&self) -> &SeccompRules {
        &self.host.seccomp
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.folder.control_socket())
    }
}
