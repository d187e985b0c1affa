//! A capsule's sandbox: how it starts, ends by itself, and is found again after this service was away.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ContainerType, ContainerUuid, Status, TaskState};
use sandbox::{Phase, Situation};
use time::OffsetDateTime;
use tracing::Instrument;

use super::super::restart::{RestartPolicy, ran};
use super::super::{Manager, background_span};
use crate::capsule_record::CapsuleRecord;
use crate::error::{Error, Result};
use crate::networking;

const LOST: &str = "the capsule's sandbox has ended";

impl Manager {
    pub(super) fn capsule_record(&self, uuid: ContainerUuid) -> Result<CapsuleRecord> {
        CapsuleRecord::read(self.sandbox(uuid).path())
    }

    /// Brings the sandbox of a capsule up, whose lock is held.
    pub(super) async fn start_capsule(&self, capsule: &mut Container) -> Result<()> {
        let (uuid, sandbox) = (capsule.uuid, self.sandbox(capsule.uuid));
        let record = self.capsule_record(uuid)?;
        let spec = self.with_volumes(record.sandbox_spec(&self.options.kata), capsule).await?;
        let owner = uuid.to_string();
        networking::plug(&record.attachments, &owner, self.hostname(), spec.queue_pairs()).await?;
        // The guest boots while Neutron wires its ports.
        let (booted, active) = tokio::join!(
            sandbox.start(&spec),
            networking::wait_active(&self.neutron, &record.attachments, self.plugging())
        );
        if let Err(e) = booted.map(drop).map_err(Into::into).and(active) {
            self.release(uuid).await?;
            return Err(e);
        }
        let detail = Changes { status_detail: Some(None), ..Changes::status(Status::Running) };
        self.save(capsule, detail.started_now()).await
    }

    /// Records that the sandbox of a capsule has ended by itself, and with it all its containers. Its policy may start it
    /// again.
    pub(in crate::manager) async fn capsule_ended(self: &Arc<Self>, uuid: ContainerUuid) -> Result<()> {
        let _turn = self.locks.lock(uuid).await;
        let mut capsule = match Container::get(&self.database, ContainerType::Capsule, uuid).await {
            Err(model::Error::NoContainer(_)) => return Ok(()),
            other => other?,
        };
        let situation = self.sandbox(uuid).situation().await;
        if !capsule.is_up() || capsule.task_state.is_some() || matches!(situation, Situation::Live(_)) {
            return Ok(());
        }
        self.release(uuid).await?;
        let reason = reason(&situation);
        tracing::warn!("{reason}");
        let ended = Changes {
            status_detail: Some(None),
            status_reason: Some(Some(reason)),
            ..Changes::status(Status::Stopped)
        };
        for kind in [ContainerType::CapsuleInitContainer, ContainerType::CapsuleContainer] {
            for mut member in capsule.list_of_capsule(&self.database, kind).await? {
                if member.is_up() || member.status == Status::Restarting {
                    self.save(&mut member, ended.clone()).await?;
                }
            }
        }
        if RestartPolicy::of(&capsule)? == RestartPolicy::No {
            return self.save(&mut capsule, ended).await;
        }
        let mut record = self.capsule_record(uuid)?;
        record.restarts = record.restarts.next(ran(capsule.started_at, OffsetDateTime::now_utc()));
        record.write(self.sandbox(uuid).path())?;
        self.save(&mut capsule, Changes { status: Some(Status::Restarting), ..ended }).await?;
        self.restart_capsule_later(uuid, record.restarts.pause());
        Ok(())
    }

    fn restart_capsule_later(self: &Arc<Self>, uuid: ContainerUuid, pause: Duration) {
        let manager = Arc::clone(self);
        let restart = async move {
            tokio::time::sleep(pause).await;
            if let Err(e) = manager.restart_capsule(uuid).await {
                tracing::error!("it is not started again: {e}");
            }
        };
        tokio::spawn(restart.instrument(background_span(uuid)));
    }

    async fn restart_capsule(self: &Arc<Self>, uuid: ContainerUuid) -> Result<()> {
        let turn = self.locks.lock(uuid).await;
        let mut capsule = match Container::get(&self.database, ContainerType::Capsule, uuid).await {
            Err(model::Error::NoContainer(_)) => return Ok(()),
            other => other?,
        };
        if capsule.status != Status::Restarting || capsule.task_state.is_some() {
            return Ok(());
        }
        let started = async {
            self.begin_anew(&capsule).await?;
            self.start_capsule(&mut capsule).await
        };
        let started = started.await;
        drop(turn);
        if let Err(e) = started {
            self.fail(&mut capsule, &e).await;
            return Err(e);
        }
        self.go_on(capsule).await
    }

    /// The containers of a sandbox that starts again have not begun.
    async fn begin_anew(&self, capsule: &Container) -> Result<()> {
        for kind in [ContainerType::CapsuleInitContainer, ContainerType::CapsuleContainer] {
            for mut member in capsule.list_of_capsule(&self.database, kind).await? {
                self.save(&mut member, Changes::status(Status::Creating)).await?;
            }
        }
        Ok(())
    }

    /// Runs what does not run yet of a capsule whose sandbox is up.
    async fn go_on(self: &Arc<Self>, mut capsule: Container) -> Result<()> {
        let ran = self.run_members(capsule.uuid).await;
        if let Err(e) = &ran
            && self.fresh_capsule(&capsule).await.is_ok()
        {
            self.fail(&mut capsule, e).await;
        }
        ran
    }

    /// Does for a capsule what is due after this service was away.
    pub async fn recover_capsule(self: &Arc<Self>, mut capsule: Container) -> Result<()> {
        let uuid = capsule.uuid;
        if capsule.task() == Some(TaskState::ContainerDeleting) {
            self.save(&mut capsule, Changes::task(None)).await?;
            return self.capsule_delete(capsule).await;
        }
        if capsule.status == Status::Creating || capsule.task_state.is_some() {
            self.save(&mut capsule, Changes::task(None)).await?;
            let error = Error::Conflict("Container failed to create correctly".into());
            self.undo_create_capsule(&mut capsule, &error).await;
            return Ok(());
        }
        match (capsule.status, self.sandbox(uuid).situation().await) {
            (_, Situation::Live(_)) => {
                tracing::info!("adopted");
                // What must end first may take its time.
                let manager = Arc::clone(self);
                tokio::spawn(async move { manager.go_on(capsule).await }.instrument(background_span(uuid)));
                Ok(())
            }
            (Status::Restarting, _) => {
                self.restart_capsule_later(uuid, Duration::ZERO);
                Ok(())
            }
            _ => self.capsule_ended(uuid).await,
        }
    }
}

fn reason(situation: &Situation) -> String {
    match situation {
        Situation::Over(state) => match &state.phase {
            Phase::Failed { reason } => reason.clone(),
            _ => LOST.into(),
        },
        _ => LOST.into(),
    }
}
