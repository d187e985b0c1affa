//! Containers and capsules as Zun has them: what its API asks for beside their lives.

pub mod commit;
pub mod files;
pub mod networks;
pub mod processes;
pub mod provisioner;
pub mod stats;
pub mod top;
pub mod update;

use std::time::Duration;

use model::{Container, ContainerUuid};
use sandbox::SandboxStatus;
use tokio::time::timeout;

use crate::containers::World;
use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::record::sandbox_name;
use crate::rows::ZunRows;
use crate::turns::{Turn, Turns, Urgency};
use provisioner::Provisioner;

/// How long a call waits for a container on which something else works: whoever called has given up after a minute, and must not
/// find that it was done after all.
const CALL_TIMEOUT: Duration = Duration::from_secs(50);

/// The world as it is: Zun's database, this host, OpenStack's services.
pub enum Zun {}

impl World for Zun {
    type Rows = ZunRows;
    type Engine = HostEngine;
    type Provision = Provisioner;
}

/// The turn of a container for a call that somebody waits for.
pub async fn call_turn(turns: &Turns, uuid: ContainerUuid) -> Result<Turn> {
    let ticket = turns.enter(uuid, Urgency::Ordinary)?;
    let late = |_| Error::Conflict(format!("container {uuid} is busy with other operations"));
    timeout(CALL_TIMEOUT, ticket.turn()).await.map_err(late)
}

/// Refuses what only a container can do whose process runs.
pub async fn require_running(engine: &HostEngine, row: &Container, action: &'static str) -> Result<()> {
    match engine.glance(row.uuid).await {
        status if status.runs(&sandbox_name(row.uuid)) => Ok(()),
        SandboxStatus::Unanswered => Err(Error::Unanswered(row.uuid)),
        _ => Err(Error::State { action, container: row.uuid, status: row.status }),
    }
}
