//! `container_create`: all that a container or a capsule needs and, where asked, the first start.

use std::sync::Arc;

use model::{Changes, Container, Status};

use super::capsule;
use super::core::{Core, World};
use super::patience::until_answered;
use super::provision::{Provision, Wanted};
use super::refusal::{give_back_dropped, is_nothing_here};
use super::start::start_made;
use super::undo::undone;
use crate::error::{Error, Result};
use crate::executor::Begun;
use crate::operation::{CREATE, CREATE_ONLY, FIRST_START};
use crate::rows::Rows;
use crate::turns::Turn;

/// Makes a container, and starts it if `run` says so. One whose making fails leaves nothing; one whose first start fails stays,
/// in error, as upstream has it.
pub async fn create<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    wanted: &Wanted,
    run: bool,
    turn: &Turn,
) -> Result<()> {
    if !is_new(core, &mut row, wanted).await? {
        return Ok(());
    }
    tracing::info!("creating");
    let operation = if run { &CREATE } else { &CREATE_ONLY };
    let (begun, task) = core.executor.announce(request, row.uuid, operation);
    let made = make(core, &mut row, wanted, task, turn).await;
    let changes = match made {
        Ok(changes) => changes,
        Err(e) => return undo(core, begun, &mut row, &wanted.volume_rows(), e).await,
    };
    if run {
        let begun = first_start(core, begun, &mut row, changes).await?;
        core.mark_made(row.uuid);
        start_made(core, begun, &mut row, turn).await
    } else {
        core.executor.settle(begun, &mut row, Ok(changes)).await?;
        core.mark_made(row.uuid);
        Ok(())
    }
}

/// Makes a capsule, brings its sandbox up and runs its containers. The turn is given back before they run: those that end first
/// may take their time, and in between the capsule can be deleted.
pub async fn create_capsule<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    wanted: &Wanted,
    turn: Turn,
) -> Result<()> {
    if !is_new(core, &mut row, wanted).await? {
        return Ok(());
    }
    tracing::info!("creating a capsule");
    let (begun, task) = core.executor.announce(request, row.uuid, &CREATE);
    let made = make(core, &mut row, wanted, task, &turn).await;
    let changes = match made {
        Ok(changes) => changes,
        Err(e) => return undo(core, begun, &mut row, &wanted.volume_rows(), e).await,
    };
    let begun = first_start(core, begun, &mut row, changes).await?;
    core.mark_made(row.uuid);
    let started = super::start::bring_up(core, &row, &turn).await;
    match started {
        Ok(changes) => {
            let up = Changes { status_detail: Some(None), ..changes };
            core.executor.settle(begun, &mut row, Ok(up)).await?;
        }
        Err(e) => return undo(core, begun, &mut row, &[], e).await,
    }
    drop(turn);
    let ran = capsule::run_members(core, row.uuid).await;
    if let Err(e) = &ran {
        capsule::fail(core, row.uuid, e).await;
    }
    core.executor.finish(request, row.uuid, "create", &ran);
    ran
}

/// A creation counts once: a message that comes twice must not undo what the first has made.
async fn is_new<W: World>(core: &Core<W>, row: &mut Container, wanted: &Wanted) -> Result<bool> {
    let now = match until_answered(|| core.executor.rows().find(row.uuid)).await {
        Ok(now) => now,
        Err(e) => {
            if is_nothing_here(core, row.uuid) {
                core.executor.write(row, Changes::error(e.to_string())).await;
                give_back_dropped(core, row.uuid, &wanted.volume_rows()).await;
            }
            return Err(e);
        }
    };
    let is_wanted = now.is_some();
    let is_new = now.is_some_and(|now| {
        now.status == Status::Creating && now.task_state.is_none() && now.container_id.is_none()
    });
    if !is_new {
        tracing::warn!(container = %row.uuid, "a creation is dropped: the container is being made already, or is no longer wanted");
    }
    // Its user has deleted it before any host had it.
    if !is_wanted && is_nothing_here(core, row.uuid) {
        give_back_dropped(core, row.uuid, &wanted.volume_rows()).await;
    }
    Ok(is_new)
}

/// What is made is started. If the database will not have it, it is unmade.
async fn first_start<W: World>(
    core: &Core<W>,
    begun: Begun,
    row: &mut Container,
    changes: Changes,
) -> Result<Begun> {
    match core.executor.proceed(begun, row, changes, &FIRST_START).await {
        Ok(begun) => Ok(begun),
        Err(e) => {
            let changes = undone(core, row, &[], &e).await;
            core.executor.write(row, changes).await;
            Err(e)
        }
    }
}

async fn make<W: World>(
    core: &Core<W>,
    row: &mut Container,
    wanted: &Wanted,
    task: Changes,
    turn: &Turn,
) -> Result<Changes> {
    core.provision.claim(row, task).await?;
    core.provision.accept(&wanted.volumes).await?;
    Box::pin(core.provision.make(wanted, row, turn)).await
}

/// A creation that failed leaves nothing: what cannot be given back is remembered, and given back later. Where it may run all the
/// same, or what is left cannot be remembered, the row keeps its host: whoever deletes it comes here, and it is tried again.
async fn undo<W: World>(
    core: &Core<W>,
    begun: Begun,
    row: &mut Container,
    asked: &[i32],
    error: Error,
) -> Result<()> {
    let changes = undone(core, row, asked, &error).await;
    core.executor.settle_with(begun, row, changes, Err(error)).await
}

/// Undoes a creation that was interrupted.
pub async fn abandon<W: World>(core: &Core<W>, row: &mut Container) {
    let error = Error::Conflict("Container failed to create correctly".into());
    let changes = Changes::task(None).after(undone(core, row, &[], &error).await);
    core.executor.write(row, changes).await;
}
