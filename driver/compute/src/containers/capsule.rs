//! The containers of a capsule: they begin in order, end, and are started again by their policies, while their sandbox goes on.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ContainerType, ContainerUuid, Status};
use sandbox::ContainerExit;
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use super::core::{Core, World, background_span, restarting, running};
use super::patience::until_answered;
use super::undo::undone;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lifecycle::{AfterEnd, End, Event, Observed, RestartPolicy, decide_member, view};
use crate::rows::Rows;

/// How long an init container may take, with all its restarts: upstream's limit (`zun/container/docker/driver.py`,
/// `_wait_for_init_container`).
const INIT_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a container of a capsule does next.
enum Next {
    /// It is started again after a pause.
    Restart(Duration),
    /// It stays as it is.
    Stay(ContainerExit),
    /// Its capsule is gone, or something is done to it.
    Gone,
}

/// Runs a capsule's containers that have not begun: those that must end first one by one, then the others. Those that run are
/// watched. The caller has not the capsule's turn: it is taken for each step.
pub async fn run_members<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid) -> Result<()> {
    let record = core.engine.record(capsule)?;
    for member in &record.init {
        let id = &member.container.id;
        let ran = timeout(INIT_TIMEOUT, run_init(core, capsule, id)).await;
        ran.unwrap_or_else(|_| Err(Error::InitTimeout(id.clone())))?;
    }
    for member in &record.members {
        let id = &member.container.id;
        match free_member_row(core, capsule, id).await?.status {
            Status::Stopped => continue,
            Status::Creating | Status::Restarting => run_member(core, capsule, id).await?,
            _ => {}
        }
        watch_member(core, capsule, id.clone());
    }
    Ok(())
}

async fn run_init<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid, id: &str) -> Result<()> {
    let row = free_member_row(core, capsule, id).await?;
    match row.status {
        // Whoever saw its end may not have given its slots back.
        Status::Stopped => return core.engine.end_member(capsule, id).await,
        Status::Error => {
            let reason = row.status_reason.unwrap_or_default();
            return Err(Error::InitFailed { id: id.to_owned(), reason });
        }
        _ => {}
    }
    let mut next = Next::Restart(Duration::ZERO);
    while let Next::Restart(pause) = next {
        sleep(pause).await;
        run_member(core, capsule, id).await?;
        let ended = core.await_process(capsule, id).await;
        let exit = ended.ok_or_else(|| Error::Conflict("the capsule's sandbox has ended".into()))?;
        next = member_ended(core, capsule, id, exit).await?;
    }
    match next {
        Next::Stay(exit) if exit.status == 0 => core.engine.end_member(capsule, id).await,
        Next::Stay(exit) => {
            let reason = format!("ended with status {}", exit.status);
            Err(Error::InitFailed { id: id.to_owned(), reason })
        }
        Next::Restart(_) | Next::Gone => Err(Error::Conflict("the capsule is being deleted".into())),
    }
}

async fn run_member<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid, id: &str) -> Result<()> {
    let _turn = core.turns.internal(capsule).await;
    let mut row = free_member_row(core, capsule, id).await?;
    core.engine.run_member(capsule, &core.engine.record(capsule)?, id).await?;
    tracing::info!(member = id, "running");
    core.executor.write(&mut row, running()).await;
    Ok(())
}

/// The row of a container; none where its capsule is gone, or something is being done to it.
async fn member_row<W: World>(core: &Core<W>, capsule: ContainerUuid, id: &str) -> Result<Option<Container>> {
    let rows = core.executor.rows();
    let Some(row) = until_answered(|| rows.find(capsule)).await? else { return Ok(None) };
    if row.task_state.is_some() {
        return Ok(None);
    }
    let members = until_answered(|| rows.members(&row)).await?;
    let found = members.into_iter().find(|member| member.uuid.to_string() == id);
    found.map(Some).ok_or_else(|| Error::invalid("capsule", format!("it has no container {id}")))
}

/// The same, where the capsule must be there.
async fn free_member_row<W: World>(core: &Core<W>, capsule: ContainerUuid, id: &str) -> Result<Container> {
    let row = member_row(core, capsule, id).await?;
    row.ok_or_else(|| Error::Conflict("something is being done to the capsule".into()))
}

/// Records how a container of a capsule ended, and finds out what comes next.
async fn member_ended<W: World>(
    core: &Arc<Core<W>>,
    capsule: ContainerUuid,
    id: &str,
    exit: ContainerExit,
) -> Result<Next> {
    let _turn = core.turns.internal(capsule).await;
    let Some(mut row) = member_row(core, capsule, id).await? else { return Ok(Next::Gone) };
    if !core.engine.status(capsule).await.may_live() {
        return Ok(Next::Stay(exit));
    }
    let mut record = core.engine.record(capsule)?;
    let member = record.member_mut(id)?;
    let policy = RestartPolicy::of(&row)?;
    let next = decide_member(policy, member.restarts, &exit, ran(row.started_at, exit.at));
    tracing::info!(member = id, status = exit.status, ?next, "a container has ended");
    match next {
        AfterEnd::Stay | AfterEnd::Remove => {
            let end = End { exit: Some(exit.clone()), failure: None, ran: Duration::ZERO };
            let mut changes =
                view(&Observed::Ended(end), None, OffsetDateTime::now_utc()).unwrap_or_default();
            if exit.status != 0 && row.kind() == Some(ContainerType::CapsuleInitContainer) {
                // It is not done: those after it must not begin, whoever looks next.
                changes = Changes::error(format!("ended with status {}", exit.status)).after(changes);
            }
            core.executor.write(&mut row, changes).await;
            Ok(Next::Stay(exit))
        }
        AfterEnd::Restart(restarts) => {
            member.restarts = restarts;
            core.engine.write_record(capsule, &record)?;
            core.executor.write(&mut row, restarting()).await;
            Ok(Next::Restart(restarts.pause()))
        }
    }
}

/// Watches in the background for the end of a container, and starts it again as its policy wants.
fn watch_member<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid, id: String) {
    let core = Arc::clone(core);
    let watch = async move {
        while let Some(exit) = core.await_process(capsule, &id).await {
            match after_end(&core, capsule, &id, exit).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    fail_member(&core, capsule, &id, &e).await;
                    break;
                }
            }
        }
        // Where it was the sandbox that ended.
        core.tell(capsule, Event::EndSeen);
    };
    tokio::spawn(watch.instrument(background_span(capsule)));
}

/// Gives whether the container runs again.
async fn after_end<W: World>(
    core: &Arc<Core<W>>,
    capsule: ContainerUuid,
    id: &str,
    exit: ContainerExit,
) -> Result<bool> {
    let Next::Restart(pause) = member_ended(core, capsule, id, exit).await? else { return Ok(false) };
    sleep(pause).await;
    run_member(core, capsule, id).await?;
    Ok(true)
}

/// A container that cannot be started again is in error, unless its capsule goes.
async fn fail_member<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid, id: &str, error: &Error) {
    let _turn = core.turns.internal(capsule).await;
    match member_row(core, capsule, id).await {
        Ok(Some(mut row)) => core.executor.write(&mut row, Changes::error(error.to_string())).await,
        Ok(None) | Err(_) => {
            tracing::debug!(member = id, error = %error, "a container is not told in error: its capsule goes")
        }
    }
}

/// Undoes a capsule whose containers could not be brought to run, unless it was deleted in the meantime.
pub async fn fail<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid, error: &Error) {
    let _turn = core.turns.internal(capsule).await;
    let Ok(mut row) = until_answered(|| core.row(capsule)).await else { return };
    if row.status == Status::Deleting || row.task_state.is_some() {
        return;
    }
    tracing::error!(error = %error, "a capsule is undone");
    let changes = undone(core, &row, &[], error).await;
    core.executor.write(&mut row, changes).await;
}

/// The containers of a capsule whose sandbox has ended have ended with it.
pub async fn end_members<W: World>(core: &Core<W>, capsule: &Container, ended: &Changes) -> Result<()> {
    for mut member in core.executor.rows().members(capsule).await? {
        if member.is_up() || member.status == Status::Restarting {
            core.executor.write(&mut member, ended.clone()).await;
        }
    }
    Ok(())
}

/// Those of a sandbox that starts again have not begun.
pub async fn begin_anew<W: World>(core: &Core<W>, capsule: &Container) -> Result<()> {
    for mut member in core.executor.rows().members(capsule).await? {
        core.executor.write(&mut member, Changes::status(Status::Creating)).await;
    }
    Ok(())
}

/// How long a container ran that was started and ended then.
pub fn ran(started: Option<PrimitiveDateTime>, ended: OffsetDateTime) -> Duration {
    let started = started.map(PrimitiveDateTime::assume_utc);
    started.and_then(|started| Duration::try_from(ended - started).ok()).unwrap_or_default()
}
