//! What this host has and no row of Zun's database: sandboxes, whose row may be gone because the database was restored or is
//! another one, and taps that a crash has left. A sandbox is never removed because its row is missing; an operator may.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ContainerUuid;
use sandbox::SandboxStatus;
use tokio::sync::Semaphore;

use crate::containers::Core;
use crate::engine::Engine;
use crate::error::Result;
use crate::zun::Zun;

/// Taps that are removed at one time.
const TAPS_AT_ONCE: usize = 4;

/// Says loudly which sandboxes have no row.
pub fn tell(orphans: &[ContainerUuid]) {
    for uuid in orphans {
        tracing::error!(
            sandbox = %uuid,
            "an orphan: Zun's database has no container of this sandbox; it is kept, see «zun-kata-compute sandbox orphans»"
        );
    }
}

/// Ports that are plugged on this host and belong to no sandbox whose guest may run, each with the container for which it was
/// plugged, as far as that is known. To be looked for before anything is started: what is plugged later is somebody's.
pub async fn leftover_taps(
    core: &Core<Zun>,
    sandboxes: &BTreeMap<ContainerUuid, SandboxStatus>,
) -> BTreeMap<String, Option<String>> {
    let mut plugged = match network::plugged().await {
        Ok(plugged) => plugged,
        Err(e) => {
            tracing::error!(error = %e, "taps may be left behind");
            return BTreeMap::new();
        }
    };
    for (uuid, _) in sandboxes.iter().filter(|(_, status)| status.may_live()) {
        match core.engine.record(*uuid) {
            Ok(record) => plugged.retain(|port, _| !record.has_port(port)),
            Err(e) => {
                tracing::error!(sandbox = %uuid, error = %e, "its taps are not known: none that is left behind is removed");
                return BTreeMap::new();
            }
        }
    }
    plugged
}

/// Begins to take them away, each in its container's turn.
pub fn remove_taps(core: &Arc<Core<Zun>>, taps: BTreeMap<String, Option<String>>) {
    let slots = Arc::new(Semaphore::new(TAPS_AT_ONCE));
    for (port, owner) in taps {
        let (core, slots) = (Arc::clone(core), Arc::clone(&slots));
        tokio::spawn(async move {
            match remove_tap(&core, &slots, &port, owner.as_deref()).await {
                Ok(true) => tracing::warn!(port, "a tap was left behind, and is removed"),
                Ok(false) => {}
                Err(e) => tracing::error!(port, error = %e, "a tap is left behind"),
            }
        });
    }
}

/// Its container may have been started since it was found, or another may have been given its port.
async fn remove_tap(core: &Core<Zun>, slots: &Semaphore, port: &str, owner: Option<&str>) -> Result<bool> {
    let uuid: Option<ContainerUuid> = owner.and_then(|owner| owner.parse().ok());
    let mut turn = None;
    if let Some(uuid) = uuid {
        turn = Some(core.turns.internal(uuid).await);
    }
    if let Some(uuid) = uuid
        && core.engine.status(uuid).await.may_live()
        && core.engine.record(uuid)?.has_port(port)
    {
        return Ok(false);
    }
    let _slot = slots.acquire().await;
    let is_removed = network::unplug(port, owner).await?;
    drop(turn);
    Ok(is_removed)
}
