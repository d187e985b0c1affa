//! Start, stop, kill, reboot, delete, and what happens when a container ends by itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Changes, Container, ContainerType, ContainerUuid, Status, TaskState};
use oslo::RequestContext;
use sandbox::{Sandbox, Situation};
use serde_json::Value;
use tracing::Instrument;

use super::status::{observed, stopped};
use super::steps::{Operation, require_created};
use super::volumes::inject_files;
use super::{Manager, background_span};
use crate::error::Result;
use crate::exposed_ports;
use crate::networking::{self, Plugging};

const STOP: Operation =
    Operation { task: TaskState::ContainerStopping, event: "_do_container_stop", action: "stop" };

const KILL: Operation =
    Operation { task: TaskState::ContainerKilling, event: "_do_container_kill", action: "kill" };

const SIGKILL: u32 = 9;
/// Docker's patience with a container that is asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a signal other than SIGKILL may take to end a container before the call returns.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

impl Manager {
    pub(super) async fn container_start(self: &Arc<Self>, request: &str, container: Container) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let result = self.start_locked(request, &mut container).await;
        if let Err(e) = &result {
            self.fail(&mut container, e).await;
        }
        self.finish(request, &container, "start", &result).await;
        result
    }

    /// Starts a container whose lock is held.
    pub(super) async fn start_locked(
        self: &Arc<Self>,
        request: &str,
        container: &mut Container,
    ) -> Result<()> {
        let seen = container.clone();
        let start = async {
            let began = self.begin(container, TaskState::ContainerStarting).await?;
            let started = async {
                require_created(container)?;
                self.forget_restarts(container.uuid)?;
                self.start(container).await
            };
            let started = started.await;
            self.end(container, began).await;
            started
        };
        self.event(request, &seen, "_do_container_start", start).await
    }

    pub(super) async fn start(self: &Arc<Self>, container: &mut Container) -> Result<()> {
        let uuid = container.uuid;
        let sandbox = self.sandbox(uuid);
        let record = self.record(uuid)?;
        match sandbox.situation().await {
            situation if situation.runs(&uuid.to_string()) => return self.started(container).await,
            // A start that was interrupted left a guest without its container.
            Situation::Live(_) => self.release(uuid).await?,
            _ => {}
        }
        tracing::info!("starting");
        let began = SystemTime::now();
        let spec = self.with_volumes(record.sandbox_spec(&self.options.kata), container).await?;
        let owner = uuid.to_string();
        networking::plug(&record.attachments, &owner, self.hostname(), spec.queue_pairs()).await?;
        let started = async {
            let made = async {
                sandbox.start(&spec).await?;
                sandbox.make_container(&record.container).await?;
                inject_files(&sandbox, &record).await
            };
            // Meanwhile Neutron wires the ports: no process runs before it can be reached.
            let active = networking::wait_active(&self.neutron, &record.attachments, self.plugging());
            let (made, active) = tokio::join!(made, active);
            made?;
            active?;
            Ok(sandbox.start_container(&record.container.id).await?)
        };
        if let Err(e) = started.await {
            if let Err(left) = self.release(uuid).await {
                tracing::error!("something is left behind: {left}");
            }
            return Err(e);
        }
        self.log_stages(&sandbox, began).await;
        self.started(container).await
    }

    /// Records that a container runs, and watches for its end.
    async fn started(self: &Arc<Self>, container: &mut Container) -> Result<()> {
        let detail =
            Changes { status_detail: Some(Some("Up 0 seconds".into())), ..Changes::status(Status::Running) };
        self.save(container, detail.started_now()).await?;
        self.watch(container.uuid);
        Ok(())
    }

    pub(super) fn plugging(&self) -> Plugging {
        let kata = &self.options.kata;
        Plugging {
            timeout: Duration::from_secs(kata.vif_plugging_timeout),
            is_fatal: kata.vif_plugging_is_fatal,
        }
    }

    /// Says how long after `began` the sandbox reached each stage of its start.
    async fn log_stages(&self, sandbox: &Sandbox, began: SystemTime) {
        if let Situation::Live(state) = sandbox.situation().await {
            let elapsed = began.duration_since(UNIX_EPOCH).unwrap_or_default();
            let first = u64::try_from(elapsed.as_micros()).unwrap_or(0);
            let stages: Vec<_> = state
                .stages
                .iter()
                .map(|(stage, at)| format!("{stage:?} {} ms", at.saturating_sub(first) / 1000))
                .collect();
            tracing::info!("running: {}", stages.join(", "));
        }
    }

    /// Watches for the container's end in the background.
    pub fn watch(self: &Arc<Self>, uuid: ContainerUuid) {
        let manager = Arc::clone(self);
        let watch = async move {
            let (sandbox, id) = (manager.sandbox(uuid), uuid.to_string());
            tokio::select! {
                end = sandbox.wait(&id) => {
                    if let Err(e) = end {
                        tracing::warn!("the container's end is not known: {e}");
                    }
                }
                () = manager.check_health(uuid) => {}
            }
            if let Err(e) = manager.ended(uuid).await {
                tracing::error!("the container's end is not recorded: {e}");
            }
        };
        tokio::spawn(watch.instrument(background_span(uuid)));
    }

    /// Records that a container has ended by itself, and takes away what it held.
    pub async fn ended(self: &Arc<Self>, uuid: ContainerUuid) -> Result<()> {
        let _turn = self.locks.lock(uuid).await;
        let mut container = match Container::get(&self.database, ContainerType::Container, uuid).await {
            Err(model::Error::NoContainer(_)) => return Ok(()),
            other => other?,
        };
        if !container.is_up() || container.task_state.is_some() {
            return Ok(());
        }
        // Between the end that was seen and this turn the container may have been started again.
        if self.sandbox(uuid).situation().await.runs(&uuid.to_string()) {
            return Ok(());
        }
        self.release(uuid).await?;
        let situation = self.sandbox(uuid).situation().await;
        if self.restarts(&mut container, &situation).await? {
            return Ok(());
        }
        if let Some(changes) = observed(&container, &situation, None) {
            self.save(&mut container, changes).await?;
        }
        tracing::info!(status = %container.status, "ended: {}", container.status_detail.as_deref().unwrap_or("-"));
        if container.auto_remove.unwrap_or(false) {
            self.delete_locked(container, true).await?;
        }
        Ok(())
    }

    /// Writes a container's status as it is now, unless something is done to it.
    pub(super) async fn observe(&self, uuid: ContainerUuid) -> Result<()> {
        let mut container = Container::get(&self.database, ContainerType::Container, uuid).await?;
        let situation = self.sandbox(uuid).situation().await;
        match observed(&container, &situation, self.health.get(uuid)) {
            Some(changes) if container.task_state.is_none() => self.save(&mut container, changes).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn container_stop(
        &self,
        request: &str,
        container: Container,
        timeout: Value,
    ) -> Result<()> {
        let work = async |container: &mut Container| self.stop_process(container, seconds(&timeout)).await;
        self.operate(request, container, &STOP, work).await
    }

    /// Asks the process to end, ends it if it does not, and records its end.
    async fn stop_process(&self, container: &mut Container, timeout: Duration) -> Result<()> {
        let sandbox = self.sandbox(container.uuid);
        let id = container.uuid.to_string();
        if sandbox.situation().await.runs(&id) {
            sandbox.signal(&id, self.record(container.uuid)?.stop_signal).await?;
            if tokio::time::timeout(timeout, sandbox.wait(&id)).await.is_err() {
                self.kill_process(&sandbox, &id).await?;
            }
        }
        self.record_end(container).await
    }

    async fn kill_process(&self, sandbox: &Sandbox, id: &str) -> Result<()> {
        sandbox.signal(id, SIGKILL).await?;
        if tokio::time::timeout(STOP_TIMEOUT, sandbox.wait(id)).await.is_err() {
            tracing::warn!("the process does not end, the sandbox is ended under it");
        }
        Ok(())
    }

    /// Takes away what the container held and writes how it ended.
    async fn record_end(&self, container: &mut Container) -> Result<()> {
        let sandbox = self.sandbox(container.uuid);
        self.release(container.uuid).await?;
        let changes = match sandbox.situation().await {
            Situation::Over(state) => match state.containers.get(&container.uuid.to_string()) {
                // That it was ended on request is no failure, however it was done.
                Some(Some(exit)) => stopped(exit, &sandbox::Phase::Ended),
                _ => Changes::status(Status::Stopped),
            },
            _ => Changes::status(Status::Stopped),
        };
        self.save(container, changes).await
    }

    pub(super) async fn container_kill(
        &self,
        request: &str,
        container: Container,
        signal: Option<String>,
    ) -> Result<()> {
        let work = async |container: &mut Container| {
            let number = match signal.as_deref() {
                None | Some("" | "None") => SIGKILL,
                Some(name) => sandbox::signal_number(name)?,
            };
            self.send_signal(container, number).await
        };
        self.operate(request, container, &KILL, work).await
    }

    /// Sends a signal. The container counts as stopped only if that ended it.
    async fn send_signal(&self, container: &mut Container, number: u32) -> Result<()> {
        let sandbox = self.sandbox(container.uuid);
        let id = container.uuid.to_string();
        sandbox.signal(&id, number).await?;
        let patience = if number == SIGKILL { STOP_TIMEOUT } else { SIGNAL_TIMEOUT };
        match tokio::time::timeout(patience, sandbox.wait(&id)).await {
            Ok(_) => self.record_end(container).await,
            Err(_) => Ok(()),
        }
    }

    pub(super) async fn container_reboot(
        self: &Arc<Self>,
        request: &str,
        container: Container,
        timeout: Value,
    ) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let seen = container.clone();
        let reboot = async {
            require_created(&container)?;
            let began = self.begin(&mut container, TaskState::ContainerRebooting).await?;
            let rebooted = async {
                self.stop_process(&mut container, seconds(&timeout)).await?;
                self.start(&mut container).await
            };
            let rebooted = rebooted.await;
            self.end(&mut container, began).await;
            rebooted
        };
        let result = self.event(request, &seen, "_do_container_reboot", reboot).await;
        if let Err(e) = &result {
            self.fail(&mut container, e).await;
        }
        self.finish(request, &container, "reboot", &result).await;
        result
    }

    pub(super) async fn container_delete(&self, container: Container, force: Option<bool>) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let container = self.fresh(container).await?;
        self.delete_locked(container, force.unwrap_or(false)).await
    }

    /// Deletes a container whose lock is held. Its row goes last, when nothing else is left.
    pub(super) async fn delete_locked(&self, mut container: Container, force: bool) -> Result<()> {
        tracing::info!(force, "deleting");
        let began = self.begin(&mut container, TaskState::ContainerDeleting).await?;
        let deleted = self.delete_everything(&container).await;
        if let Err(e) = deleted {
            self.end(&mut container, began).await;
            self.fail(&mut container, &e).await;
            return Err(e);
        }
        Ok(container.destroy(&self.database).await?)
    }

    async fn delete_everything(&self, container: &Container) -> Result<()> {
        self.end_in_order(container).await?;
        self.clean_up(container.uuid).await?;
        exposed_ports::close(&self.neutron, container.uuid).await?;
        self.detach_volumes(container).await?;
        Ok(self.placement.delete_allocations(&container.uuid.to_string()).await?)
    }

    /// Deletes containers that wait for it: those that were to be removed at their end.
    pub async fn delete_auto_removed(&self) {
        let containers =
            match Container::list_by_host(&self.database, &[ContainerType::Container], self.hostname()).await
            {
                Ok(containers) => containers,
                Err(e) => return tracing::error!("the containers cannot be listed: {e}"),
            };
        let waits = |container: &Container| {
            let deleted = container.status == Status::Deleted && container.task_state.is_none();
            deleted && container.auto_remove.unwrap_or(false)
        };
        for container in containers.into_iter().filter(waits) {
            let span = background_span(container.uuid);
            if let Err(e) = self.container_delete(container, Some(true)).instrument(span.clone()).await {
                span.in_scope(|| tracing::error!("it is not removed: {e}"));
            }
        }
    }

    /// Does again what was interrupted, as upstream does at start.
    pub async fn resume(self: &Arc<Self>, container: Container, task: Option<TaskState>) -> Result<()> {
        const NO_REQUEST: &str = "";
        let timeout = Value::from(self.options.docker.default_timeout);
        match task {
            Some(TaskState::ContainerStarting) => self.container_start(NO_REQUEST, container).await,
            Some(TaskState::ContainerStopping) => self.container_stop(NO_REQUEST, container, timeout).await,
            Some(TaskState::ContainerRebooting) => {
                self.container_reboot(NO_REQUEST, container, timeout).await
            }
            Some(TaskState::ContainerPausing) => self.container_pause(NO_REQUEST, container).await,
            Some(TaskState::ContainerUnpausing) => self.container_unpause(NO_REQUEST, container).await,
            Some(TaskState::ContainerKilling) => self.container_kill(NO_REQUEST, container, None).await,
            Some(TaskState::NetworkAttaching | TaskState::NetworkDetaching) => {
                self.drop_strays(container.uuid).await
            }
            Some(TaskState::ContainerRebuilding) => {
                let run = container.started_at.is_some();
                self.container_rebuild(&RequestContext::default(), container, run).await
            }
            Some(TaskState::ContainerDeleting) => self.container_delete(container, Some(true)).await,
            _ => self.ended(container.uuid).await,
        }
    }

    /// The container's row as it is now: the message was written before this turn.
    pub(super) async fn fresh(&self, container: Container) -> Result<Container> {
        Ok(Container::get(&self.database, ContainerType::Container, container.uuid).await?)
    }
}

/// A number of seconds, which the API may send as a text.
fn seconds(value: &Value) -> Duration {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.map_or(STOP_TIMEOUT, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_timeout_may_be_text() {
        assert_eq!(seconds(&json!(3)), Duration::from_secs(3));
        assert_eq!(seconds(&json!("4")), Duration::from_secs(4));
        assert_eq!(seconds(&json!(null)), STOP_TIMEOUT);
    }
}
