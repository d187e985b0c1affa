//! What all work on containers has in common: rows, sandboxes, what provides for them, turns, and what has happened.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Changes, Container, ContainerUuid, Status};
use sandbox::{ContainerExit, SandboxStatus};
use time::OffsetDateTime;
use tokio::sync::mpsc::UnboundedSender;
use tracing::Instrument;

use super::provision::Provision;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::lifecycle::{Event, Facts, Kind, Observed, RestartPolicy, view};
use crate::record::SandboxRecord;
use crate::rows::Rows;
use crate::turns::Turns;

/// Before the end of a process is waited for again whose sandbox did not answer; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The seams at which this service meets the world.
pub trait World: Send + Sync + 'static {
    /// Zun's rows.
    type Rows: Rows;
    /// The host's sandboxes.
    type Engine: Engine;
    /// What provides for sandboxes.
    type Provision: Provision;
}

/// What work on containers has in common.
pub struct Core<W: World> {
    /// Writes rows.
    pub executor: Executor<W::Rows>,
    /// The sandboxes of this host.
    pub engine: W::Engine,
    /// Images, ports, volumes and what else they need.
    pub provision: W::Provision,
    /// Who may work on which container.
    pub turns: Turns,
    /// Where events go that nobody asked for.
    pub happened: UnboundedSender<(ContainerUuid, Event)>,
    /// What the operator wants.
    pub policy: CorePolicy,
    watched: Mutex<HashSet<ContainerUuid>>,
}

/// What an operator says of containers' lives.
#[derive(Debug, Clone, Copy)]
pub struct CorePolicy {
    /// Whether what ran is started again with this service.
    pub resumes: bool,
    /// How long a process may take to end where an interrupted operation is done again.
    pub stop_timeout: Duration,
}

/// The span of work on a container that no request asks for: what is logged in it carries the identifier.
pub fn background_span(uuid: ContainerUuid) -> tracing::Span {
    tracing::info_span!(parent: None, "container", %uuid)
}

impl<W: World> Core<W> {
    /// What work on containers has in common, before there is any.
    pub fn new(
        executor: Executor<W::Rows>,
        engine: W::Engine,
        provision: W::Provision,
        happened: UnboundedSender<(ContainerUuid, Event)>,
        policy: CorePolicy,
    ) -> Self {
        let (turns, watched) = (Turns::default(), Mutex::default());
        Self { executor, engine, provision, turns, happened, policy, watched }
    }

    /// The row of a container or a capsule.
    pub async fn row(&self, uuid: ContainerUuid) -> Result<Container> {
        let found = self.executor.rows().find(uuid).await?;
        found.ok_or(Error::Database(model::Error::NoContainer(uuid)))
    }

    /// What is seen of a container, asked anew.
    pub async fn observe(&self, uuid: ContainerUuid) -> Observed {
        let status = self.engine.status(uuid).await;
        self.observed(uuid, &status)
    }

    /// What `status` says of it.
    pub fn observed(&self, uuid: ContainerUuid, status: &SandboxStatus) -> Observed {
        let record = match self.engine.find_record(uuid) {
            Ok(record) => record,
            Err(e) => {
                tracing::error!(container = %uuid, error = %e, "what is kept of a container cannot be read");
                return Observed::Unanswered;
            }
        };
        let main = record.as_ref().and_then(SandboxRecord::main_process);
        let process = main.map(|member| member.container.id.as_str());
        Observed::of(status, record.is_some(), process, OffsetDateTime::now_utc())
    }

    /// What the row of a container that was seen so should say.
    pub fn view(&self, uuid: ContainerUuid, observed: &Observed) -> Changes {
        let health = self.provision.health(uuid);
        let health = health.as_ref().map(|health| health as &dyn std::fmt::Display);
        view(observed, health, OffsetDateTime::now_utc()).unwrap_or_default()
    }

    /// What is decided upon, of a container whose turn the caller has.
    pub fn facts(&self, row: &Container) -> Result<Facts> {
        let record = self.engine.find_record(row.uuid)?;
        let is_stopped = record.as_ref().is_some_and(|record| record.is_stopped);
        let policy = if is_stopped { RestartPolicy::No } else { RestartPolicy::of(row)? };
        Ok(Facts {
            kind: if row.is_capsule() { Kind::Capsule } else { Kind::Container },
            status: row.status,
            task: row.task(),
            is_made: row.container_id.is_some(),
            is_made_here: record.as_ref().is_some_and(|record| record.is_made),
            has_started: row.started_at.is_some(),
            auto_remove: row.auto_remove.unwrap_or(false),
            auto_heal: row.auto_heal.unwrap_or(false),
            policy,
            restarts: record.map(|record| record.restarts).unwrap_or_default(),
            resumes: self.policy.resumes,
        })
    }

    /// Changes what this host keeps of a container, if that changes it.
    pub fn update_record(
        &self,
        uuid: ContainerUuid,
        change: impl FnOnce(&mut SandboxRecord) -> bool,
    ) -> Result<()> {
        let mut record = self.engine.record(uuid)?;
        if change(&mut record) { self.engine.write_record(uuid, &record) } else { Ok(()) }
    }

    /// A container was made: from here on its folder may hold what its user has written.
    pub fn mark_made(&self, uuid: ContainerUuid) {
        if let Err(e) = self.update_record(uuid, |record| !std::mem::replace(&mut record.is_made, true)) {
            tracing::error!(container = %uuid, error = %e, "that a container was made is not recorded");
        }
    }

    /// Tells that something has happened to a container.
    pub fn tell(&self, uuid: ContainerUuid, event: Event) {
        if self.happened.send((uuid, event)).is_err() {
            tracing::debug!(container = %uuid, ?event, "nobody hears of it: the service stops");
        }
    }

    /// The same after a while.
    pub fn tell_later(&self, uuid: ContainerUuid, event: Event, pause: Duration) {
        let happened = self.happened.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // The service stops where nobody hears of it.
            let _ = happened.send((uuid, event));
        });
    }

    /// Watches for the end of a container that runs, and does meanwhile what goes with it. There is one watch at a time.
    pub fn watch(self: &Arc<Self>, row: &Container) {
        let uuid = row.uuid;
        if !self.watched().insert(uuid) {
            return;
        }
        let (core, row) = (Arc::clone(self), row.clone());
        let watch = async move {
            tokio::select! {
                biased;
                () = core.await_end(uuid) => {}
                () = core.provision.accompany(&row) => {}
            }
            core.watched().remove(&uuid);
            core.tell(uuid, Event::EndSeen);
        };
        tokio::spawn(watch.instrument(background_span(uuid)));
    }

    /// A sandbox that cannot be asked is waited for on and on: it is not taken for dead.
    async fn await_end(&self, uuid: ContainerUuid) {
        let Ok(record) = self.engine.record(uuid) else { return };
        match record.main_process().map(|member| member.container.id.clone()) {
            Some(main) => {
                self.await_process(uuid, &main).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for the end of a process; none where its sandbox has ended without a word of it.
    pub async fn await_process(&self, uuid: ContainerUuid, process: &str) -> Option<ContainerExit> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.engine.wait(uuid, process).await {
                Ok(exit) => return Some(exit),
                Err(_) if !self.engine.status(uuid).await.may_live() => return None,
                Err(e) => tracing::warn!(error = %e, "the end of a process cannot be waited for"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashSet<ContainerUuid>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a row says of a container that has just begun to run.
pub fn running() -> Changes {
    Changes { status_detail: Some(Some("Up 0 seconds".into())), ..Changes::status(Status::Running) }
        .started_now()
}

/// What a row says of a container that is about to be started again.
pub fn restarting() -> Changes {
    Changes { status_detail: Some(Some("Restarting".into())), ..Changes::status(Status::Restarting) }
}
