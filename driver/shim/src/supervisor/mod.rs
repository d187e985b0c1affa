//! A sandbox with its machine, agent and containers. The only writer of the sandbox's state.

mod slots;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_protocol::messages::DestroySandboxRequest;
use agent_protocol::service::AgentServiceClient;
use shim_control::{
    ContainerExit, ContainerProcess, CreateContainer, Exec, ExecResult, FileStat, Interact, Pack, Packed,
    Phase, Process, ProcessInput, Resize, RunDir, SandboxPlan, SandboxState, Signal, Stage, Stats, Unpack,
    Update,
};
use time::OffsetDateTime;
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use vmm::{BlockSlot, GuestExit, Machine};

use crate::aside::aside;
use crate::device_slots::DeviceSlots;
use crate::error::{Error, Result};
use crate::log::Log;
use crate::machine::TemplateFiles;
use crate::output::Output;
use crate::terminal::{Attached, Connected};
use crate::{agent, archive, containers, guest, resize, terminal};

/// Time for a guest to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the remaining output after a container's end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// One sandbox.
pub struct Supervisor {
    folder: RunDir,
    plan: SandboxPlan,
    machine: Arc<Machine>,
    preparations: Mutex<Option<Preparations>>,
    agent: OnceCell<AgentServiceClient>,
    slots: Arc<tokio::sync::Mutex<DeviceSlots>>,
    output: Mutex<BTreeMap<String, Kept>>,
    resizing: tokio::sync::Mutex<()>,
    state: watch::Sender<SandboxState>,
}

/// A container's output and the task that reads it.
struct Kept {
    task: JoinHandle<()>,
    output: Weak<Output>,
    terminal: bool,
}

/// The parts of a machine that are used only while its guest boots.
pub struct Preparations {
    /// Becomes readable when the guest's agent listens.
    pub ready_signal: StdUnixStream,
    /// The template to save, if one is to be made.
    pub template: Option<TemplateFiles>,
}

impl Supervisor {
    /// A supervisor of a running machine. Writes the sandbox's state.
    pub fn new(
        folder: RunDir,
        plan: SandboxPlan,
        machine: Machine,
        preparations: Preparations,
        state: SandboxState,
    ) -> Self {
        let supervisor = Self {
            slots: Arc::new(tokio::sync::Mutex::new(DeviceSlots::new(&plan, &machine))),
            folder,
            plan,
            machine: Arc::new(machine),
            preparations: Mutex::new(Some(preparations)),
            agent: OnceCell::new(),
            output: Mutex::default(),
            resizing: tokio::sync::Mutex::default(),
            state: watch::channel(state).0,
        };
        supervisor.save();
        supervisor
    }

    /// Waits for the guest's end. To be called once.
    pub async fn wait(&self) -> GuestExit {
        let machine = Arc::clone(&self.machine);
        let exit = aside(move || Ok(machine.wait())).await;
        exit.unwrap_or(GuestExit::KvmError("the machine's threads panicked".into()))
    }

    /// Brings the guest from kernel entry to readiness, or ends it.
    pub async fn boot(self: Arc<Self>) {
        if let Err(e) = self.set_up_guest().await {
            self.update(|state| state.phase = Phase::Failed { reason: e.to_string() });
            self.machine.stop();
        }
    }

    async fn set_up_guest(&self) -> Result<()> {
        let socket = self.folder.vsock_socket();
        let preparations = self.preparations.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Preparations { ready_signal, template }) = preparations else { return Ok(()) };
        let ready_signal =
            ready_signal.set_nonblocking(true).and_then(|()| UnixStream::from_std(ready_signal));
        let ready_signal = ready_signal.map_err(Error::io("watch for the guest's ready signal"))?;
        let mut agent = agent::connect(&socket, &ready_signal).await?;
        self.reached(Stage::AgentReady);
        if let Some(template) = template {
            drop(agent);
            self.save_template(template).await?;
            agent = agent::connect(&socket, &ready_signal).await?;
        }
        guest::set_up(&agent, &self.plan).await?;
        self.agent.set(agent).ok();
        self.update(|state| {
            state.phase = Phase::Ready;
            state.stages.insert(Stage::SandboxReady, now());
        });
        Ok(())
    }

    /// Saves a template. If that fails, the sandbox runs on without.
    async fn save_template(&self, template: TemplateFiles) -> Result<()> {
        let (machine, folder) = (Arc::clone(&self.machine), self.folder.clone());
        match aside(move || template.save(&machine, &folder)).await {
            Ok(()) => self.reached(Stage::TemplateSaved),
            Err(Error::Lost) => return Err(Error::Lost),
            Err(e) => tracing::warn!(error = %e, "no template is made"),
        }
        Ok(())
    }

    /// The sandbox's state as it changes.
    pub fn watch(&self) -> watch::Receiver<SandboxState> {
        self.state.subscribe()
    }

    /// Makes a container.
    pub async fn create_container(self: &Arc<Self>, container: &CreateContainer) -> Result<()> {
        let log = Log::open(self.folder.log(&container.id), self.plan.log);
        let log = log.map_err(Error::io("open the container's log"))?;
        let output = Arc::new(Output::new(log));
        let kept = Kept {
            output: Arc::downgrade(&output),
            terminal: has_terminal(container.spec.process().as_ref()),
            task: containers::create(self.agent()?, container, output).await?,
        };
        self.outputs().insert(container.id.clone(), kept);
        self.reached(Stage::ContainerCreated);
        Ok(())
    }

    /// Starts a container's process, and records its end when it comes.
    pub async fn start_container(self: &Arc<Self>, id: String) -> Result<()> {
        let agent = self.agent()?.clone();
        containers::start(&agent, &id).await?;
        self.update(|state| {
            state.containers.insert(id.clone(), None);
            state.stages.insert(Stage::ProcessRunning, now());
        });
        let supervisor = Arc::clone(self);
        tokio::spawn(async move {
            match containers::wait(&agent, &id, &id).await {
                Ok(status) => supervisor.container_ended(id, status).await,
                Err(e) => tracing::warn!(container = id, error = %e, "the container's end is unknown"),
            }
        });
        Ok(())
    }

    /// Kills the container's remaining processes, and removes it.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        containers::remove(self.agent()?, id).await?;
        self.outputs().remove(id);
        self.update(|state| {
            state.containers.remove(id);
        });
        Ok(())
    }

    async fn container_ended(&self, id: String, status: i32) {
        let at = OffsetDateTime::now_utc();
        let oom_killed = self.stats(&id).await.is_ok_and(|stats| stats.oom_kills > 0);
        let output = self.outputs().remove(&id);
        if let Some(output) = output
            && tokio::time::timeout(DRAIN_TIMEOUT, output.task).await.is_err()
        {
            tracing::warn!(container = id, "output still comes after the container's end");
        }
        let last = self.plan.ends_with.as_ref() == Some(&id);
        let exit = ContainerExit { status, oom_killed, at };
        self.update(|state| {
            // The container may have been removed meanwhile.
            if let Some(end) = state.containers.get_mut(&id) {
                *end = Some(exit);
            }
        });
        if last {
            self.shut_down().await;
        }
    }

    /// Signals a container.
    pub async fn signal(&self, signal: &Signal) -> Result<()> {
        containers::signal(self.agent()?, signal).await
    }

    /// Runs a process to its end; `None` if it was killed at its time limit.
    pub async fn exec(&self, exec: &Exec) -> Result<Option<ExecResult>> {
        containers::exec(self.agent()?, exec).await
    }

    /// Attaches to a running container's output, from now on.
    pub fn attach(&self, id: &str) -> Result<Attached> {
        self.agent()?;
        let outputs = self.outputs();
        let attached = outputs.get(id).and_then(|kept| {
            let pieces = kept.output.upgrade()?.attach();
            Some(Attached { container: id.to_owned(), pieces, terminal: kept.terminal })
        });
        attached.ok_or_else(|| Error::NoContainer(id.to_owned()))
    }

    /// Connects an attached client to the container's first process.
    pub async fn serve_attached(&self, stream: UnixStream, attached: Attached) {
        let Ok(agent) = self.agent() else { return };
        let (reader, writer) = stream.into_split();
        let Attached { container: id, pieces, terminal } = attached;
        Connected { agent, container: &id, process: &id, terminal }.attached(reader, writer, pieces).await;
    }

    /// Makes a process for an interactive client. For a program that cannot be run, returns a shell's message and
    /// status.
    pub async fn spawn(&self, interact: &Interact) -> Result<Option<ExecResult>> {
        let (agent, container) = (self.agent()?, &interact.exec.container);
        if let Err(e) = containers::spawn(agent, &interact.id, &interact.exec).await {
            return containers::unrunnable(e).map(Some);
        }
        if interact.input == ProcessInput::Closed {
            containers::close_input(agent, container, &interact.id).await?;
        }
        if let Some(size) = interact.size {
            let (container, exec) = (container.clone(), Some(interact.id.clone()));
            terminal::resize(agent, &Resize { container, exec, size }).await?;
        }
        Ok(None)
    }

    /// Connects the client for which a process was made.
    pub async fn serve_interactive(&self, stream: UnixStream, interact: &Interact) -> Result<()> {
        let (reader, writer) = stream.into_split();
        let connected = Connected {
            agent: self.agent()?,
            container: &interact.exec.container,
            process: &interact.id,
            terminal: has_terminal(Some(&interact.exec.process)),
        };
        connected.interactive(reader, writer).await
    }

    /// Packs files of a container into `archive`.
    pub async fn pack(&self, pack: &Pack, archive: OwnedFd) -> Result<archive::Outcome<Option<FileStat>>> {
        let agent = self.agent()?;
        match &pack.what {
            Packed::Path(path) => Ok(archive::pack(agent, pack, path, archive.into()).await?.map(Some)),
            Packed::Changes => Ok(archive::pack_changes(agent, pack, archive.into()).await?.map(|()| None)),
        }
    }

    /// Unpacks `archive` in a container.
    pub async fn unpack(&self, unpack: &Unpack, archive: OwnedFd) -> Result<archive::Outcome<()>> {
        archive::unpack(self.agent()?, unpack, archive.into()).await
    }

    /// Sets the size of a process's terminal.
    pub async fn resize_terminal(&self, resize: &Resize) -> Result<()> {
        terminal::resize(self.agent()?, resize).await
    }

    /// Changes the resources of a container and of the guest. The guest's are raised before the container's and
    /// lowered after them.
    pub async fn update_container(&self, update: &Update) -> Result<()> {
        let agent = self.agent()?;
        let _turn = self.resizing.lock().await;
        resize::raise_vcpus(agent, update.vcpus).await?;
        let (_, wanted) = self.machine.memory();
        if wanted <= update.memory_mib.saturating_mul(resize::MEBIBYTE) {
            resize::raise_memory(&self.machine, update.memory_mib).await?;
            return containers::update(agent, update).await;
        }
        containers::update(agent, update).await?;
        // Not waited for: the guest returns memory as its pages become free.
        resize::offer_memory(&self.machine, update.memory_mib).await
    }

    /// A container's resource usage.
    pub async fn stats(&self, id: &str) -> Result<Stats> {
        containers::stats(self.agent()?, id).await
    }

    /// The processes of a container.
    pub async fn processes(&self, id: &str) -> Result<Vec<ContainerProcess>> {
        containers::processes(self.agent()?, id).await
    }

    /// Pauses the guest's vCPUs. Idempotent.
    pub async fn pause(&self) -> Result<()> {
        match self.state.borrow().phase {
            Phase::Ready => {}
            Phase::Paused => return Ok(()),
            _ => return Err(Error::NotReady),
        }
        let machine = Arc::clone(&self.machine);
        aside(move || Ok(machine.pause()?)).await?;
        self.change_phase(Phase::Ready, Phase::Paused);
        Ok(())
    }

    /// Resumes the guest's vCPUs. Idempotent.
    pub fn resume(&self) -> Result<()> {
        match self.state.borrow().phase {
            Phase::Paused => {}
            Phase::Ready => return Ok(()),
            _ => return Err(Error::NotReady),
        }
        self.machine.resume();
        self.change_phase(Phase::Paused, Phase::Ready);
        Ok(())
    }

    /// Ends the guest in order, or by force if it does not end in time. A paused guest is resumed first.
    pub async fn shut_down(&self) {
        if self.state.borrow().phase == Phase::Paused
            && let Err(e) = self.resume()
        {
            tracing::warn!(error = %e, "the guest does not go on");
        }
        self.machine.disk_slots().iter().for_each(BlockSlot::end_patience);
        if let Ok(agent) = self.agent() {
            if let Err(e) = agent.destroy_sandbox(agent::deadline(), &DestroySandboxRequest::default()).await
            {
                tracing::warn!(error = %e, "the guest did not take the order to end");
            }
            let mut state = self.watch();
            if tokio::time::timeout(END_TIMEOUT, state.wait_for(|state| !state.is_live())).await.is_ok() {
                return;
            }
            tracing::warn!("the guest did not end within {} s", END_TIMEOUT.as_secs());
        }
        self.machine.stop();
    }

    /// Records the guest's end, and keeps its console if it failed.
    pub fn record_end(&self, exit: GuestExit) {
        let reason = match exit {
            GuestExit::Shutdown | GuestExit::Stopped => None,
            GuestExit::Panic(text) => Some(format!("the guest kernel panicked: {text}")),
            GuestExit::TripleFault => Some("the guest's processor shut down (triple fault)".into()),
            GuestExit::KvmError(reason) => Some(format!("KVM cannot run the guest: {reason}")),
        };
        self.update(|state| {
            state.phase = match (&state.phase, reason) {
                (Phase::Failed { reason }, None) => Phase::Failed { reason: reason.clone() },
                (Phase::Booting, None) => {
                    Phase::Failed { reason: "the guest ended before it was ready".into() }
                }
                (_, None) => Phase::Ended,
                (_, Some(reason)) => Phase::Failed { reason },
            };
        });
        let failed = matches!(self.state.borrow().phase, Phase::Failed { .. });
        if failed && let Err(e) = std::fs::write(self.folder.console(), self.machine.console().text()) {
            tracing::error!(error = %e, "the guest's console cannot be written");
        }
    }

    /// The agent, which cannot answer while the guest is paused.
    fn agent(&self) -> Result<&AgentServiceClient> {
        if self.state.borrow().phase == Phase::Paused {
            return Err(Error::Paused);
        }
        self.agent.get().ok_or(Error::NotReady)
    }

    fn reached(&self, stage: Stage) {
        self.update(|state| {
            state.stages.insert(stage, now());
        });
    }

    /// Changes the phase unless it is no longer `from`: the guest may have ended meanwhile.
    fn change_phase(&self, from: Phase, to: Phase) {
        self.update(|state| {
            if state.phase == from {
                state.phase = to;
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut SandboxState)) {
        self.state.send_modify(change);
        self.save();
    }

    fn save(&self) {
        if let Err(e) = self.folder.write_state(&self.state.borrow()) {
            tracing::error!(error = %e, "the sandbox's state cannot be written");
        }
    }

    fn outputs(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Kept>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_terminal(process: Option<&Process>) -> bool {
    process.and_then(Process::terminal).unwrap_or(false)
}

/// Microseconds since the epoch.
pub fn now() -> u64 {
    microseconds(SystemTime::now())
}

fn microseconds(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}
