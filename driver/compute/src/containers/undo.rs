//! What is done to a container or a capsule that could not be made.

use model::{Addresses, Changes, Container, Status};

use super::core::{Core, World};
use super::patience::until_answered;
use super::provision::{Provision, Thoroughness};
use crate::error::Error;
use crate::rows::Rows;

/// Takes away what there is of a container, and gives what its row says then. What cannot be given back is remembered.
pub async fn undone<W: World>(core: &Core<W>, row: &Container, asked: &[i32], error: &Error) -> Changes {
    let left = until_answered(|| core.provision.unmake(row, asked, Thoroughness::Debts)).await;
    if let Err(left) = &left {
        tracing::error!(error = %left, "something of a creation is left behind");
    }
    // What may run still counts on this host.
    let is_clean = left.is_ok() && !core.observe(row.uuid).await.may_run();
    if row.is_capsule() {
        fail_members(core, row, error).await;
    }
    Changes {
        host: is_clean.then_some(None),
        container_id: Some(None),
        addresses: is_clean.then(Addresses::new),
        started_at: Some(None),
        status_detail: Some(None),
        ..Changes::error(error.to_string())
    }
}

/// The containers of a capsule that failed to be made, or to be brought to run, are in error with it.
async fn fail_members<W: World>(core: &Core<W>, capsule: &Container, error: &Error) {
    for mut member in core.executor.rows().members(capsule).await.unwrap_or_default() {
        if member.status != Status::Stopped {
            let changes = Changes { container_id: Some(None), ..Changes::error(error.to_string()) };
            core.executor.write(&mut member, changes).await;
        }
    }
}
