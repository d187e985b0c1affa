//! The containers of this guest and their processes.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_protocol::messages::archive_process_request::Direction;
use agent_protocol::messages::{
    ArchiveProcessRequest, CreateContainerRequest, ExecProcessRequest, StatsContainerResponse, Storage,
    UpdateContainerRequest,
};
use agent_protocol::{STORAGE_OVERLAY, process_from_wire, resources_from_wire, spec_from_wire};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::archive::ArchiveTask;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::reaper::Reaper;
use crate::runtime::{Confinement, Filter};
use crate::storage::Mounts;
use crate::{processes, runtime, stats, sysctls, users};

const BUNDLES: &str = "/run/kata-agent/bundles";
/// Helpers that run at one time: guests may be small.
const HELPERS_AT_ONCE: usize = 4;
/// How long processes may take to stop.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
const FREEZE_INTERVAL: Duration = Duration::from_millis(5);
const IDENTIFIER_MAX: usize = 128;

/// Whether a container's processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    /// They stand still.
    Frozen,
    /// They run.
    Thawed,
}

/// All containers.
pub struct Containers {
    reaper: Reaper,
    helpers: Semaphore,
    shared_pids: OnceCell<PathBuf>,
    all: Mutex<HashMap<String, Arc<Container>>>,
}

struct Container {
    id: String,
    bundle: PathBuf,
    rootfs: PathBuf,
    /// Where what it has changed in its image lies.
    changes: Option<PathBuf>,
    cgroup: PathBuf,
    has_poststart_hooks: bool,
    /// The filter of all its processes.
    filter: Option<Filter>,
    processes: Mutex<HashMap<String, Arc<Process>>>,
    mounts: Arc<tokio::sync::Mutex<Mounts>>,
}

impl Containers {
    /// No containers yet.
    pub fn new(reaper: Reaper) -> Self {
        Self {
            reaper,
            helpers: Semaphore::new(HELPERS_AT_ONCE),
            shared_pids: OnceCell::new(),
            all: Mutex::default(),
        }
    }

    /// Mounts a container's storages and makes it; its first process waits for [`Self::start`].
    pub async fn create(&self, request: &CreateContainerRequest) -> Result<()> {
        let id = checked_identifier(&request.container_id)?;
        if lock(&self.all).contains_key(id) {
            return Err(Error::ContainerExists(id.to_owned()));
        }
        let mounts = Mounts::mount(&request.storages).await?;
        let mut spec = spec_from_wire(request.OCI.get_or_default())?;
        if request.sandbox_pidns {
            let namespace =
                self.shared_pids.get_or_try_init(|| runtime::make_pid_namespace(&self.reaper)).await?;
            share_pids(&mut spec, namespace)?;
        }
        let rootfs = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        if let (Some(user), Some(mut process)) = (request.string_user.as_ref(), spec.process().clone()) {
            users::apply(&mut process, user, &rootfs)?;
            spec.set_process(Some(process));
        }
        sysctls::apply_networks(&mut spec)?;
        let filter = take_filter(&mut spec)?;
        let confinement = confine(&mut spec, filter.clone());
        let cgroup = cgroup_of(&spec);
        let poststart = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
        let has_poststart_hooks = poststart.is_some_and(|hooks| !hooks.is_empty());
        let bundle = Path::new(BUNDLES).join(id);
        write_json(&bundle, "config.json", &spec)?;

        let created = {
            let _turn = self.helpers.acquire().await;
            runtime::create(&self.reaper, id, &bundle, terminal, confinement).await
        };
        let bounded = created.and_then(|launched| {
            runtime::restrict_devices(&cgroup, &device_rules(&spec))?;
            Ok(launched)
        });
        let launched = match bounded {
            Ok(launched) => launched,
            Err(e) => {
                self.forget(id, &bundle).await;
                return Err(e);
            }
        };
        let first = Arc::new(Process::new(launched.pid, launched.exit, launched.stdio));
        let container = Container {
            id: id.to_owned(),
            bundle,
            rootfs,
            changes: upper_directory(&request.storages),
            cgroup,
            has_poststart_hooks,
            filter,
            processes: Mutex::new(HashMap::from([(id.to_owned(), first)])),
            mounts: Arc::new(tokio::sync::Mutex::new(mounts)),
        };
        lock(&self.all).insert(id.to_owned(), Arc::new(container));
        Ok(())
    }

    /// Lets a container's first process run.
    pub async fn start(&self, id: &str) -> Result<()> {
        let container = self.find(id)?;
        if !container.has_poststart_hooks {
            return runtime::start(id);
        }
        let _turn = self.helpers.acquire().await;
        runtime::start_with_hooks(&self.reaper, id, &container.bundle).await
    }

    /// Makes a process in a running container.
    pub async fn exec(&self, request: &ExecProcessRequest) -> Result<()> {
        let container = self.find(&request.container_id)?;
        let exec = checked_identifier(&request.exec_id)?;
        if lock(&container.processes).contains_key(exec) {
            return Err(Error::ProcessExists(exec.to_owned()));
        }
        let mut process = process_from_wire(request.process.get_or_default())?;
        if let Some(user) = request.string_user.as_ref() {
            users::apply(&mut process, user, &container.rootfs)?;
        }
        let terminal = process.terminal().unwrap_or(false);
        let confinement = Confinement::prepare(&mut process, container.filter.clone());
        let directory = container.bundle.join(format!("exec-{exec}"));
        write_json(&directory, "process.json", &process)?;
        let launched = {
            let _turn = self.helpers.acquire().await;
            runtime::exec(&self.reaper, &container.id, &directory, terminal, confinement).await
        };
        let removed = std::fs::remove_dir_all(&directory);
        let launched = launched?;
        removed.map_err(Error::io("remove a process's directory"))?;
        let process = Process::new(launched.pid, launched.exit, launched.stdio);
        lock(&container.processes).insert(exec.to_owned(), Arc::new(process));
        Ok(())
    }

    /// Makes a process that packs or unpacks a container's files, as the container's first process sees them.
    pub fn archive(&self, request: &ArchiveProcessRequest) -> Result<()> {
        let container = self.find(&request.container_id)?;
        let exec = checked_identifier(&request.exec_id)?;
        if lock(&container.processes).contains_key(exec) {
            return Err(Error::ProcessExists(exec.to_owned()));
        }
        let path = PathBuf::from(&request.path);
        let own_root = || {
            let first = self.process(&container.id, "")?;
            Ok::<_, Error>(PathBuf::from(format!("/proc/{}/root", first.pid())))
        };
        let (root, task) = match request.direction.enum_value() {
            Ok(Direction::PACK) => (own_root()?, ArchiveTask::Pack(path)),
            Ok(Direction::UNPACK) => (own_root()?, ArchiveTask::Unpack(path)),
            Ok(Direction::CHANGES) => {
                let changes = container.changes.clone();
                let none = || Error::Runtime(format!("container {} has no overlay", container.id));
                (changes.ok_or_else(none)?, ArchiveTask::Changes)
            }
            Err(other) => return Err(Error::Runtime(format!("there is no direction {other} of an archive"))),
        };
        let launched = runtime::archive(&self.reaper, &root, &task)?;
        let process = Process::new(launched.pid, launched.exit, launched.stdio);
        lock(&container.processes).insert(exec.to_owned(), Arc::new(process));
        Ok(())
    }

    /// The process `exec` of a container; its first process has the container's own identifier.
    pub fn process(&self, id: &str, exec: &str) -> Result<Arc<Process>> {
        let container = self.find(id)?;
        let exec = if exec.is_empty() { id } else { exec };
        let process = lock(&container.processes).get(exec).cloned();
        process.ok_or_else(|| Error::NoProcess { container: id.to_owned(), exec: exec.to_owned() })
    }

    /// Forgets an ended process other than the first. Its streams close.
    pub fn forget_process(&self, id: &str, exec: &str) {
        if exec != id
            && !exec.is_empty()
            && let Ok(container) = self.find(id)
        {
            lock(&container.processes).remove(exec);
        }
    }

    /// Signals one process, or with an empty `exec` every process of the container.
    pub fn signal(&self, id: &str, exec: &str, number: u32) -> Result<()> {
        let signal = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
        let signal = signal.ok_or_else(|| Error::Runtime(format!("there is no signal {number}")))?;
        if exec.is_empty() {
            self.find(id)?.signal_all(signal)
        } else {
            self.process(id, exec)?.signal(signal)
        }
    }

    /// Changes what a container may use.
    pub fn update(&self, request: &UpdateContainerRequest) -> Result<()> {
        let container = self.find(&request.container_id)?;
        let resources = resources_from_wire(request.resources.get_or_default())?;
        runtime::update(&container.id, &container.cgroup, &resources)
    }

    /// Stops a container's processes, or lets them go on, and returns when they have.
    pub async fn freeze(&self, id: &str, state: Freezer) -> Result<()> {
        let container = self.find(id)?;
        let reached = container.freeze(state).await;
        if reached.is_err() && state == Freezer::Frozen {
            // Else a process that sleeps in the kernel would stop for good when it wakes.
            container.order(Freezer::Thawed)?;
        }
        reached
    }

    /// What a container uses.
    pub fn stats(&self, id: &str) -> Result<StatsContainerResponse> {
        Ok(stats::collect(&self.find(id)?.cgroup))
    }

    /// The processes of a container.
    pub fn processes(&self, id: &str) -> Result<Vec<processes::Listed>> {
        processes::list(&self.find(id)?.cgroup)
    }

    /// Kills what is left of a container and unmounts its storages.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let container = self.find(id)?;
        container.signal_all(Signal::SIGKILL)?;
        let first = lock(&container.processes).get(id).cloned();
        if let Some(first) = first {
            first.wait().await?;
        }
        self.forget(id, &container.bundle).await;
        // What is not on a disk yet is written first, which may take longer than the caller waits. Other containers are served
        // meanwhile, and whoever asks again waits for the same.
        let mut mounts = Arc::clone(&container.mounts).lock_owned().await;
        let unmounted = spawn_blocking(move || drop(std::mem::take(&mut *mounts))).await;
        unmounted.map_err(|e| Error::Runtime(e.to_string()))?;
        lock(&self.all).remove(id);
        Ok(())
    }

    /// Removes all containers, as far as that works.
    pub async fn remove_all(&self) {
        let ids: Vec<_> = lock(&self.all).keys().cloned().collect();
        for id in ids {
            if let Err(e) = self.remove(&id).await {
                tracing::warn!("cannot remove container {id}: {e}");
            }
        }
    }

    async fn forget(&self, id: &str, bundle: &Path) {
        if Path::new(runtime::STATE_DIR).join(id).exists()
            && let Err(e) = runtime::remove(&self.reaper, id, bundle).await
        {
            tracing::warn!("the runtime cannot forget container {id}: {e}");
        }
        match std::fs::remove_dir_all(bundle) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {e}", bundle.display());
            }
            _ => {}
        }
    }

    fn find(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.all).get(id).cloned().ok_or_else(|| Error::NoContainer(id.to_owned()))
    }
}

impl Container {
    fn order(&self, state: Freezer) -> Result<()> {
        let order = self.cgroup.join("cgroup.freeze");
        let value = if state == Freezer::Frozen { "1" } else { "0" };
        std::fs::write(&order, value).map_err(Error::io(format!("write {}", order.display())))
    }

    async fn freeze(&self, state: Freezer) -> Result<()> {
        self.order(state)?;
        let reached = if state == Freezer::Frozen { "frozen 1" } else { "frozen 0" };
        let events = self.cgroup.join("cgroup.events");
        let has_reached = || {
            let text =
                std::fs::read_to_string(&events).map_err(Error::io(format!("read {}", events.display())))?;
            Ok::<_, Error>(text.lines().any(|line| line == reached))
        };
        let give_up = Instant::now() + FREEZE_TIMEOUT;
        while !has_reached()? {
            if Instant::now() > give_up {
                return Err(Error::Runtime(format!("the processes of {} do not stop", self.id)));
            }
            sleep(FREEZE_INTERVAL).await;
        }
        Ok(())
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        if signal == Signal::SIGKILL {
            let kill = self.cgroup.join("cgroup.kill");
            return match std::fs::write(&kill, "1") {
                // A removal that was given up has removed the group.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                killed => killed.map_err(Error::io(format!("write {}", kill.display()))),
            };
        }
        let list = self.cgroup.join("cgroup.procs");
        let pids = std::fs::read_to_string(&list).map_err(Error::io(format!("read {}", list.display())))?;
        for pid in pids.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw) {
            match nix::sys::signal::kill(pid, signal) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(e) => return Err(Error::io(format!("send {signal}"))(e)),
            }
        }
        Ok(())
    }
}

/// Puts a container into a PID namespace, whatever its specification says of one.
fn share_pids(spec: &mut Spec, path: &Path) -> Result<()> {
    let namespace = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid).path(path).build();
    let namespace = namespace.map_err(|e| Error::Runtime(e.to_string()))?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let others = linux.namespaces().clone().unwrap_or_default().into_iter();
    let others = others.filter(|other| other.typ() != LinuxNamespaceType::Pid);
    linux.set_namespaces(Some(others.chain([namespace]).collect()));
    spec.set_linux(Some(linux));
    Ok(())
}

fn device_rules(spec: &Spec) -> Vec<LinuxDeviceCgroup> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    resources.and_then(|resources| resources.devices().clone()).unwrap_or_default()
}

/// Takes the seccomp filter out of the specification.
fn take_filter(spec: &mut Spec) -> Result<Option<Filter>> {
    let Some(mut linux) = spec.linux().clone() else { return Ok(None) };
    let filter = linux.seccomp().as_ref().map(Filter::compile).transpose()?;
    linux.set_seccomp(None);
    spec.set_linux(Some(linux));
    Ok(filter)
}

fn confine(spec: &mut Spec, filter: Option<Filter>) -> Confinement {
    let Some(mut process) = spec.process().clone() else { return Confinement::default() };
    let confinement = Confinement::prepare(&mut process, filter);
    spec.set_process(Some(process));
    confinement
}

/// The directory in which the overlay among these storages keeps what is written.
fn upper_directory(storages: &[Storage]) -> Option<PathBuf> {
    let overlay = storages.iter().find(|storage| storage.driver == STORAGE_OVERLAY)?;
    overlay.options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from)
}

fn cgroup_of(spec: &Spec) -> PathBuf {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
    Path::new(runtime::CGROUP_ROOT).join(path.strip_prefix("/").unwrap_or(&path))
}

fn write_json(directory: &Path, name: &str, value: &impl serde::Serialize) -> Result<()> {
    let path = directory.join(name);
    let write = || {
        std::fs::create_dir_all(directory)?;
        std::fs::write(&path, serde_json::to_vec(value)?)
    };
    write().map_err(Error::io(format!("write {}", path.display())))
}

/// Identifiers become names of files and cgroups.
fn checked_identifier(id: &str) -> Result<&str> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if plain && !id.is_empty() && id.len() <= IDENTIFIER_MAX {
        Ok(id)
    } else {
        Err(Error::Identifier(format!("{id:?}")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_be_paths() {
        assert!(checked_identifier("420cf282-ebea-44b6-ae15-2d11adde338f").is_ok());
        for bad in ["", "..", "a/b", "a b", &"x".repeat(129)] {
            assert!(checked_identifier(bad).is_err(), "{bad:?} was taken");
        }
    }
}
