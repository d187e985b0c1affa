//! The containers of a capsule: they begin in order, end, and are started again by their policies.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ContainerType, ContainerUuid, Status};
use sandbox::{ContainerExit, Situation};
use tracing::Instrument;

use super::super::restart::{RestartPolicy, ran};
use super::super::status::stopped;
use super::super::{Manager, background_span};
use crate::capsule_record::Member;
use crate::error::{Error, Result};

/// What a container of a capsule does next.
enum Next {
    /// It is started again after a pause.
    Restart(Duration),
    /// It stays as it is.
    Stay(ContainerExit),
    /// Its capsule is gone, or being deleted.
    Gone,
}

impl Manager {
    /// Runs a capsule's containers that have not begun: those that must end first one by one, then the others. Those that
    /// run are watched. In between the capsule can be deleted.
    pub(super) async fn run_members(self: &Arc<Self>, capsule: ContainerUuid) -> Result<()> {
        let record = self.capsule_record(capsule)?;
        for member in &record.init {
            self.run_init_member(capsule, member).await?;
        }
        for member in record.containers {
            let row = self.member_row(capsule, ContainerType::CapsuleContainer, &member.container.id).await?;
            if row.status == Status::Stopped {
                continue;
            }
            if matches!(row.status, Status::Creating | Status::Restarting) {
                self.run_member(capsule, ContainerType::CapsuleContainer, &member).await?;
            }
            self.watch_member(capsule, member);
        }
        Ok(())
    }

    async fn run_init_member(&self, capsule: ContainerUuid, member: &Member) -> Result<()> {
        let (kind, id) = (ContainerType::CapsuleInitContainer, &member.container.id);
        if self.member_row(capsule, kind, id).await?.status == Status::Stopped {
            return Ok(());
        }
        let mut next = Next::Restart(Duration::ZERO);
        while let Next::Restart(pause) = next {
            tokio::time::sleep(pause).await;
            self.run_member(capsule, kind, member).await?;
            let exit = self.sandbox(capsule).wait(id).await?;
            next = self.member_ended(capsule, kind, id, exit).await?;
        }
        match next {
            Next::Stay(exit) if exit.status == 0 => Ok(self.sandbox(capsule).end_container(id).await?),
            Next::Stay(exit) => {
                Err(Error::Invalid(format!("init container {id} ended with status {}", exit.status)))
            }
            _ => Err(Error::Conflict("the capsule is being deleted".into())),
        }
    }

    async fn run_member(&self, capsule: ContainerUuid, kind: ContainerType, member: &Member) -> Result<()> {
        let _turn = self.locks.lock(capsule).await;
        let id = &member.container.id;
        let mut row = self.member_row(capsule, kind, id).await?;
        let sandbox = self.sandbox(capsule);
        // It may run already, where this service was ended before the row said so.
        if !sandbox.situation().await.runs(id) {
            // What it left when it ended.
            sandbox.end_container(id).await?;
            sandbox.run(&member.container).await?;
        }
        tracing::info!(member = id, "running");
        let detail =
            Changes { status_detail: Some(Some("Up 0 seconds".into())), ..Changes::status(Status::Running) };
        self.save(&mut row, detail.started_now()).await
    }

    /// The row of a container whose capsule is there and is not being deleted.
    async fn member_row(&self, capsule: ContainerUuid, kind: ContainerType, id: &str) -> Result<Container> {
        let row = Container::get(&self.database, ContainerType::Capsule, capsule).await?;
        if row.task_state.is_some() {
            return Err(Error::Conflict("something is being done to the capsule".into()));
        }
        let uuid = id.parse().map_err(|_| Error::Invalid(format!("container {id:?} of a capsule")))?;
        Ok(Container::get(&self.database, kind, uuid).await?)
    }

    /// Records how a container of a capsule ended, and finds out what comes next.
    async fn member_ended(
        &self,
        capsule: ContainerUuid,
        kind: ContainerType,
        id: &str,
        exit: ContainerExit,
    ) -> Result<Next> {
        let _turn = self.locks.lock(capsule).await;
        let Ok(mut row) = self.member_row(capsule, kind, id).await else { return Ok(Next::Gone) };
        let situation = self.sandbox(capsule).situation().await;
        let mut record = self.capsule_record(capsule)?;
        let Some(member) = record.member_mut(id) else { return Ok(Next::Gone) };
        let wants = RestartPolicy::of(&row)?.wants(Some(&exit), member.restarts.all);
        tracing::info!(member = id, status = exit.status, restarts = wants, "ended");
        if !wants {
            let Situation::Live(state) = situation else { return Ok(Next::Stay(exit)) };
            self.save(&mut row, stopped(&exit, &state.phase)).await?;
            return Ok(Next::Stay(exit));
        }
        member.restarts = member.restarts.next(ran(row.started_at, exit.at));
        let pause = member.restarts.pause();
        record.write(self.sandbox(capsule).path())?;
        let detail =
            Changes { status_detail: Some(Some("Restarting".into())), ..Changes::status(Status::Restarting) };
        self.save(&mut row, detail).await?;
        Ok(Next::Restart(pause))
    }

    /// Watches in the background for the end of a container, and starts it again as its policy wants.
    fn watch_member(self: &Arc<Self>, capsule: ContainerUuid, member: Member) {
        let manager = Arc::clone(self);
        let watch = async move {
            while let Ok(exit) = manager.sandbox(capsule).wait(&member.container.id).await {
                match manager.after_end(capsule, &member, exit).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => {
                        manager.fail_member(capsule, &member, &e).await;
                        break;
                    }
                }
            }
            // Where it was the sandbox that ended.
            if let Err(e) = manager.capsule_ended(capsule).await {
                tracing::error!("the capsule's end is not recorded: {e}");
            }
        };
        tokio::spawn(watch.instrument(background_span(capsule)));
    }

    /// A container that cannot be started again is in error, unless its capsule goes.
    async fn fail_member(&self, capsule: ContainerUuid, member: &Member, error: &Error) {
        let _turn = self.locks.lock(capsule).await;
        let row = self.member_row(capsule, ContainerType::CapsuleContainer, &member.container.id).await;
        match row {
            Ok(mut row) => self.fail(&mut row, error).await,
            Err(_) => tracing::debug!(member = member.container.id, "its capsule goes: {error}"),
        }
    }

    /// Gives whether the container runs again.
    async fn after_end(&self, capsule: ContainerUuid, member: &Member, exit: ContainerExit) -> Result<bool> {
        if !matches!(self.sandbox(capsule).situation().await, Situation::Live(_)) {
            return Ok(false);
        }
        let (kind, id) = (ContainerType::CapsuleContainer, &member.container.id);
        let Next::Restart(pause) = self.member_ended(capsule, kind, id, exit).await? else {
            return Ok(false);
        };
        tokio::time::sleep(pause).await;
        self.run_member(capsule, kind, member).await?;
        Ok(true)
    }
}
