//! `container_rebuild`: the container is made anew from its image, and keeps its identifier, its ports and its volumes.

use std::sync::Arc;

use model::{Changes, Container};
use oslo::RequestContext;

use super::core::{Core, World};
use super::provision::Provision;
use super::start::start_made;
use crate::error::{Error, Result};
use crate::executor::require_created;
use crate::lifecycle::Observed;
use crate::operation::{REBUILD, REBUILD_ONLY, REBUILT_START};
use crate::turns::Turn;

/// Makes a container anew whose turn the caller has, and starts it if `run` says so.
pub async fn rebuild<W: World>(
    core: &Arc<Core<W>>,
    context: &RequestContext,
    mut row: Container,
    run: bool,
    turn: &Turn,
) -> Result<()> {
    let operation = if run { &REBUILD } else { &REBUILD_ONLY };
    if let Err(e) = require_accounted(&row) {
        core.executor.write(&mut row, Changes::error(e.to_string())).await;
        return Err(e);
    }
    let begun = core.executor.begin(context.request(), &mut row, operation, Changes::default()).await?;
    let rebuilt = core.provision.remake(context, &mut row, turn).await;
    match rebuilt {
        Ok(changes) if run => {
            let begun = core.executor.proceed(begun, &mut row, changes, &REBUILT_START).await?;
            core.mark_made(row.uuid);
            start_made(core, begun, &mut row, turn).await
        }
        Ok(changes) => {
            core.executor.settle(begun, &mut row, Ok(changes)).await?;
            core.mark_made(row.uuid);
            Ok(())
        }
        Err(e) => {
            let changes = as_it_was(core, &row, run, &e).await;
            core.executor.settle_with(begun, &mut row, changes, Err(e)).await
        }
    }
}

/// What failed to be made has no ports and no share of this host: nobody would account for what was made of it.
fn require_accounted(row: &Container) -> Result<()> {
    require_created(row)?;
    if row.host.is_some() { Ok(()) } else { Err(Error::NotCreated) }
}

/// A container that was not touched goes on, and says why it was not rebuilt. One that was not to run is not to run either if
/// it is made anew later.
async fn as_it_was<W: World>(core: &Core<W>, row: &Container, run: bool, error: &Error) -> Changes {
    let observed = core.observe(row.uuid).await;
    if !matches!(observed, Observed::Running { .. }) {
        let started_at = (!run).then_some(None);
        return Changes { started_at, ..Changes::error(error.to_string()) };
    }
    let reason = Some(Some(format!("it was not rebuilt: {error}")));
    Changes { status_reason: reason, ..core.view(row.uuid, &observed) }
}
