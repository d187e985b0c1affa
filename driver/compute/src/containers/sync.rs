//! State synchronisation: the rows of this host's containers against what its sandboxes have written. One query, and no call to a
//! sandbox whose row is right.

use std::sync::Arc;
use std::time::Instant;

use model::ContainerUuid;
use sandbox::SandboxStatus;
use tokio::task::yield_now;
use tracing::Instrument;

use super::core::{Core, World, background_span};
use super::events::handle;
use crate::engine::Engine;
use crate::error::Result;
use crate::lifecycle::{Decision, Event, decide};
use crate::rows::Rows;

/// Rows compared between two yields: each costs a file. (`block_in_place` will not do: the simulated world has one thread.)
const ROWS_AT_ONCE: usize = 16;

/// Compares all, and lets what differs be mended, each in its turn. A container on which somebody works is left for the next time.
pub async fn synchronise<W: World>(core: &Arc<Core<W>>) -> Result<()> {
    let began = Instant::now();
    let rows = core.executor.rows().list().await?;
    let written = core.engine.survey()?;
    let count = rows.len();
    let mut differing = 0;
    for (number, row) in rows.into_iter().enumerate() {
        if number % ROWS_AT_ONCE == 0 {
            yield_now().await;
        }
        let status = written.get(&row.uuid).unwrap_or(&SandboxStatus::Absent);
        let observed = core.observed(row.uuid, status);
        match core.facts(&row) {
            Ok(facts) if decide(&facts, &observed, Event::Looked) == Decision::Keep => continue,
            Ok(_) => {}
            Err(e) => {
                tracing::error!(container = %row.uuid, error = %e, "a container's state cannot be compared");
                continue;
            }
        }
        differing += 1;
        mend(core, row.uuid);
    }
    let elapsed_us = began.elapsed().as_micros();
    tracing::debug!(count, differing, elapsed_us, "states compared");
    Ok(())
}

/// What was seen may have changed in the meantime: it is looked at again in the container's turn.
fn mend<W: World>(core: &Arc<Core<W>>, uuid: ContainerUuid) {
    let Some(turn) = core.turns.if_idle(uuid) else { return };
    let core = Arc::clone(core);
    let work = async move { handle(&core, uuid, Event::Looked, turn).await };
    tokio::spawn(work.instrument(background_span(uuid)));
}
