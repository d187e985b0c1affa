//! What this host has and no row of Zun's database: sandboxes, whose row may be gone because the database was restored or is
//! another one, and taps that a crash has left. A sandbox is never removed because its row is missing; an operator may.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ContainerUuid;
use network::{Plugged, Unplugged};
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

/// Ports that are plugged on this host and belong to no sandbox whose guest may run. To be looked for before anything is started:
/// what is plugged later is somebody's.
pub async fn leftover_taps(
    core: &Core<Zun>,
    sandboxes: &BTreeMap<ContainerUuid, SandboxStatus>,
) -> Vec<Plugged> {
    let mut plugged = match network::plugged().await {
        Ok(plugged) => plugged,
        Err(e) => {
            tracing::error!(error = %e, "taps may be left behind");
            return Vec::new();
        }
    };
    for (uuid, _) in sandboxes.iter().filter(|(_, status)| status.may_live()) {
        match core.engine.record(*uuid) {
            Ok(record) => plugged.retain(|one| !record.has_port(&one.port)),
            Err(e) => {
                tracing::error!(sandbox = %uuid, error = %e, "its taps are not known: none that is left behind is removed");
                return Vec::new();
            }
        }
    }
    plugged
}

/// Begins to remove them, each in its container's turn.
pub fn remove_taps(core: &Arc<Core<Zun>>, taps: Vec<Plugged>) {
    let slots = Arc::new(Semaphore::new(TAPS_AT_ONCE));
    for Plugged { port, owner } in taps {
        let (core, slots) = (Arc::clone(core), Arc::clone(&slots));
        tokio::spawn(async move {
            match remove_tap(&core, &slots, &port, owner.as_deref()).await {
                Ok(Unplugged::Removed) => tracing::warn!(port, "a tap was left behind, and is removed"),
                Ok(Unplugged::AnothersNow) => {}
                Err(e) => tracing::error!(port, error = %e, "a tap is left behind"),
            }
        });
    }
}

/// Removes a tap in its container's turn, unless that has been started since. Whoever plugs a tap names himself in its alias, so
/// that one without a name needs no turn: it is left alone if somebody has come to have its port.
async fn remove_tap(
    core: &Core<Zun>,
    slots: &Semaphore,
    port: &str,
    owner: Option<&str>,
) -> Result<Unplugged> {
    let container = owner.and_then(|owner| owner.parse().ok());
    loop {
        let turn = match container {
            Some(uuid) => Some(core.turns.internal(uuid).await),
            None => None,
        };
        if let Some(uuid) = container
            && core.engine.status(uuid).await.may_live()
            && core.engine.record(uuid)?.has_port(port)
        {
            return Ok(Unplugged::AnothersNow);
        }
        // Only now: whoever waits for a turn must not keep a slot from others, nor the turn from a deletion.
        let slot = slots.acquire();
        let _slot = match &turn {
            None => slot.await,
            Some(turn) => tokio::select! {
                biased;
                slot = slot => slot,
                () = turn.hurried() => continue,
            },
        };
        return Ok(network::unplug(port, owner).await?);
    }
}
