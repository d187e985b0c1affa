//! Creations that do not begin. What others have made for them is given back.

use model::{Changes, Container, ContainerUuid, Status};

use super::core::{Core, World};
use super::patience::until_answered;
use super::provision::Provision;
use crate::creations::{Creations, Taken};
use crate::engine::Engine;
use crate::error::Result;
use crate::rows::Rows;

/// Refuses a creation whose message could not be taken, or was lost when the service ended. One that has begun is left alone. The
/// note of it stays until everything is given back.
pub async fn refuse_creation<W: World>(core: &Core<W>, creations: &Creations, taken: &Taken, reason: &str) {
    match refuse_unbegun(core, creations, taken, reason).await {
        Ok(()) => creations.forget(taken.uuid),
        Err(e) => {
            tracing::error!(error = %e, "a refused creation is given back after the next start of this service");
        }
    }
}

async fn refuse_unbegun<W: World>(
    core: &Core<W>,
    creations: &Creations,
    Taken { uuid, project, volumes }: &Taken,
    reason: &str,
) -> Result<()> {
    let _turn = core.turns.internal(*uuid).await;
    match until_answered(|| core.executor.rows().find(*uuid)).await? {
        Some(mut row) if is_unbegun(&row) => {
            if row.status == Status::Creating {
                core.executor.write(&mut row, Changes::error(reason)).await;
            }
        }
        None if is_nothing_here(core, *uuid) => {}
        Some(_) | None => return Ok(()),
    }
    let _place = creations.refusal(project).await;
    until_answered(|| core.provision.give_back_unbegun(*uuid, volumes)).await
}

/// Whether no host has begun to make it. One that is in error may have been refused already.
fn is_unbegun(row: &Container) -> bool {
    let is_refused = matches!(row.status, Status::Creating | Status::Error);
    is_refused && row.host.is_none() && row.container_id.is_none()
}

/// Whether this host has no sandbox of it.
pub fn is_nothing_here<W: World>(core: &Core<W>, uuid: ContainerUuid) -> bool {
    matches!(core.engine.find_record(uuid), Ok(None))
}

/// Gives back what others have made for a creation that is dropped. The caller has its turn.
pub async fn give_back_dropped<W: World>(core: &Core<W>, uuid: ContainerUuid, volumes: &[i32]) {
    if let Err(e) = until_answered(|| core.provision.give_back_unbegun(uuid, volumes)).await {
        tracing::error!(error = %e, "something of a creation that is dropped is left behind");
    }
}
