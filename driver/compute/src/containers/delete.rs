//! Deletions. A row goes last, when nothing else is left.

use std::sync::Arc;

use model::{Changes, Container, Status};

use super::core::{Core, World};
use super::patience::until_answered;
use super::provision::{Provision, Thoroughness};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::executor::NOBODY;
use crate::lifecycle::Observed;
use crate::operation::DELETE;
use crate::rows::Rows;

/// Deletes a container or a capsule whose turn the caller has.
pub async fn delete<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    thoroughness: Thoroughness,
) -> Result<()> {
    tracing::info!(?thoroughness, "deleting");
    if row.host.is_none() {
        // What could not be made has nothing, and no host would take its deletion up again.
        return until_answered(|| core.executor.rows().destroy(&row)).await;
    }
    if thoroughness == Thoroughness::Debts {
        // What a deletion that is interrupted is resumed as. One of which nothing is here has nothing to be remembered.
        let _ = core.update_record(row.uuid, |record| !std::mem::replace(&mut record.is_forced, true));
    }
    let deleting = Changes::status(Status::Deleting);
    let begun = core.executor.begin(request, &mut row, &DELETE, deleting).await?;
    match until_answered(|| core.provision.unmake(&row, &[], thoroughness)).await {
        Ok(()) => until_answered(|| core.executor.rows().destroy(&row)).await,
        Err(e) => {
            let changes = as_far_as_it_went(core, &row, &e).await;
            core.executor.settle_with(begun, &mut row, changes, Err(e)).await
        }
    }
}

/// After a failed deletion a container may have lost ports, volumes or its allocation. Unless it is seen running, its `container_id`
/// is cleared: all that can be done with it then is to delete it.
async fn as_far_as_it_went<W: World>(core: &Core<W>, row: &Container, error: &Error) -> Changes {
    let runs_on = matches!(core.observe(row.uuid).await, Observed::Running { .. });
    let container_id = (!runs_on).then_some(None);
    Changes { container_id, ..Changes::error(error.to_string()) }
}

/// How thorough the deletion is that was begun. One that has taken the record away already has only a row to remove: what else
/// it owes can be paid later.
pub fn begun_thoroughness<W: World>(core: &Core<W>, row: &Container) -> Thoroughness {
    match core.engine.find_record(row.uuid) {
        _ if row.auto_remove.unwrap_or(false) => Thoroughness::Debts,
        Ok(Some(record)) if record.is_forced => Thoroughness::Debts,
        Ok(None) => Thoroughness::Debts,
        Ok(Some(_)) | Err(_) => Thoroughness::All,
    }
}

/// Deletes a container that has just ended, if it is to go then.
pub async fn delete_ended<W: World>(core: &Arc<Core<W>>, row: Container) -> Result<()> {
    if row.auto_remove.unwrap_or(false) && row.status == Status::Stopped {
        delete(core, NOBODY, row, Thoroughness::Debts).await
    } else {
        Ok(())
    }
}
