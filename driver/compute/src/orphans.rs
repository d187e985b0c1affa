//! What this host has and no row of Zun's database: sandboxes, whose row may be gone because the database was restored or is
//! another one, and taps that a crash has left. A sandbox is never removed because its row is missing; an operator may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::ContainerUuid;
use sandbox::SandboxStatus;
use tokio::task::block_in_place;

use crate::containers::Core;
use crate::engine::Engine;
use crate::error::Result;
use crate::zun::Zun;

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
) -> BTreeSet<String> {
    let plugged = match network::plugged().await {
        Ok(plugged) => plugged,
        Err(e) => {
            tracing::error!(error = %e, "taps may be left behind");
            return BTreeSet::new();
        }
    };
    let mut used = BTreeSet::new();
    for (uuid, _) in sandboxes.iter().filter(|(_, status)| status.may_live()) {
        match core.engine.record(*uuid) {
            Ok(record) => used.extend(record.attachments.into_iter().map(|one| one.port)),
            Err(e) => {
                tracing::error!(sandbox = %uuid, error = %e, "its taps are not known: none that is left behind is removed");
                return BTreeSet::new();
            }
        }
    }
    plugged.difference(&used).cloned().collect()
}

/// Takes them away. One that a sandbox of this host has is looked at again in that one's turn: it may be about to run.
pub async fn remove_taps(core: Arc<Core<Zun>>, ports: BTreeSet<String>) {
    for port in ports {
        match remove_tap(&core, &port).await {
            Ok(true) => tracing::warn!(port, "a tap was left behind, and is removed"),
            Ok(false) => {}
            Err(e) => tracing::error!(port, error = %e, "a tap is left behind"),
        }
    }
}

/// Those that have come to have it since it was found are asked in their turns. Who plugs a port has recorded it before: while
/// somebody else comes to have it, it is looked at anew. What cannot be found out leaves it where it is.
async fn remove_tap(core: &Core<Zun>, port: &str) -> Result<bool> {
    loop {
        let owners = owners_of(core, port)?;
        let mut turns = Vec::new();
        for owner in &owners {
            turns.push(core.turns.internal(*owner).await);
            if core.engine.status(*owner).await.may_live() {
                return Ok(false);
            }
        }
        let has_others = || owners_of(core, port).map_or(true, |now| now != owners);
        if network::unplug_unless(port, has_others).await? {
            return Ok(true);
        }
    }
}

/// The sandboxes of this host whose records name a port.
fn owners_of(core: &Core<Zun>, port: &str) -> Result<BTreeSet<ContainerUuid>> {
    // Each record is a file.
    block_in_place(|| {
        let mut owners = BTreeSet::new();
        for uuid in core.engine.survey()?.into_keys() {
            let Some(record) = core.engine.find_record(uuid)? else { continue };
            if record.attachments.iter().any(|one| one.port == port) {
                owners.insert(uuid);
            }
        }
        Ok(owners)
    })
}
