//! Deletions. A row goes last, when nothing else is left.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, Status};
use tokio::time::sleep;

use super::core::{Core, World};
use super::provision::{Provision, Thoroughness};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::operation::DELETE;
use crate::rows::Rows;

/// Before the removal of a row is tried again that the database did not take; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Deletes a container or a capsule whose turn the caller has.
pub async fn delete<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    thoroughness: Thoroughness,
) -> Result<()> {
    tracing::info!(?thoroughness, "deleting");
    if thoroughness == Thoroughness::Debts {
        // What a deletion that is interrupted is resumed as. One of which nothing is here has nothing to be remembered.
        let _ = core.update_record(row.uuid, |record| !std::mem::replace(&mut record.is_forced, true));
    }
    let deleting = Changes::status(Status::Deleting);
    let begun = core.executor.begin(request, &mut row, &DELETE, deleting).await?;
    match core.provision.unmake(&row, thoroughness).await {
        Ok(()) => destroy(core, &row).await,
        Err(e) => core.executor.settle(begun, &mut row, Err(e)).await,
    }
}

/// How thorough the deletion is that was begun.
pub fn begun_thoroughness<W: World>(core: &Core<W>, row: &Container) -> Thoroughness {
    let is_forced = core.engine.find_record(row.uuid).ok().flatten().is_some_and(|record| record.is_forced);
    match is_forced || row.auto_remove.unwrap_or(false) {
        true => Thoroughness::Debts,
        false => Thoroughness::All,
    }
}

/// Deletes a container that has just ended, if it is to go then.
pub async fn delete_ended<W: World>(core: &Arc<Core<W>>, row: Container) -> Result<()> {
    if row.auto_remove.unwrap_or(false) && row.status == Status::Stopped {
        delete(core, "", row, Thoroughness::Debts).await
    } else {
        Ok(())
    }
}

async fn destroy<W: World>(core: &Core<W>, row: &Container) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        match core.executor.rows().destroy(row).await {
            Err(Error::Database(e)) if e.is_transient() => {
                tracing::warn!(error = %e, "a row is not removed yet");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}
