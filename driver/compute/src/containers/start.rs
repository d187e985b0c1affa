//! Starts: a user's, those of restart policies, those that were interrupted.

use std::sync::Arc;

use model::{Changes, Container};

use super::core::{Core, World, running};
use super::provision::Provision;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::executor::{Begun, NOBODY};
use crate::lifecycle::{Observed, Restarts};
use crate::operation::START;
use crate::turns::Turn;

/// Starts a container whose turn the caller has.
pub async fn start<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    turn: &Turn,
) -> Result<()> {
    let begun = core.executor.begin(request, &mut row, &START, Changes::default()).await?;
    let started = async {
        forget_restarts(core, &row)?;
        bring_up(core, &row, turn).await
    };
    let started = started.await;
    core.executor.settle(begun, &mut row, started).await?;
    core.watch(&row);
    Ok(())
}

/// The same of a container that an operation has just made, with that operation's names.
pub async fn start_made<W: World>(
    core: &Arc<Core<W>>,
    begun: Begun,
    row: &mut Container,
    turn: &Turn,
) -> Result<()> {
    let started = bring_up(core, row, turn).await;
    core.executor.settle(begun, row, started).await?;
    core.watch(row);
    Ok(())
}

/// Starts a container again for which nobody asks now. Its restarts go on being counted.
pub async fn start_again<W: World>(core: &Arc<Core<W>>, mut row: Container, turn: &Turn) -> Result<()> {
    let begun = core.executor.begin(NOBODY, &mut row, &START, Changes::default()).await?;
    start_made(core, begun, &mut row, turn).await
}

/// Brings its sandbox up and, if it is a container, runs its process. Gives what its row says then.
pub async fn bring_up<W: World>(core: &Core<W>, row: &Container, turn: &Turn) -> Result<Changes> {
    let uuid = row.uuid;
    let record = core.engine.record(uuid)?;
    match core.observe(uuid).await {
        Observed::Running { .. } => return Ok(running()),
        Observed::Unanswered => return Err(Error::Unanswered(uuid)),
        // A start that was interrupted left a guest without its process.
        Observed::Partial => core.engine.release(uuid).await?,
        Observed::Ended(_) if core.engine.status(uuid).await.may_live() => core.engine.release(uuid).await?,
        Observed::Lost | Observed::Idle | Observed::Ended(_) => {}
    }
    tracing::info!("starting");
    let disks = core.provision.disks(row, &record).await?;
    core.engine.start(uuid, &record, disks, turn).await?;
    Ok(running())
}

/// A user has started it: its policy counts from here, and holds again.
pub fn forget_restarts<W: World>(core: &Core<W>, row: &Container) -> Result<()> {
    core.update_record(row.uuid, |record| {
        let changes = record.restarts != Restarts::default() || record.is_stopped;
        (record.restarts, record.is_stopped) = (Restarts::default(), false);
        changes
    })
}
