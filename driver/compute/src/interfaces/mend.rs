//! What an interruption has left of a container's interfaces, and what another name of this host has.

use cloud::Port;
use model::{Changes, ContainerUuid};
use sandbox::{Sandbox, SandboxStatus};

use super::Interfaces;
use super::groups::restore_groups;
use super::plug::addresses;
use crate::engine::Engine;
use crate::error::Result;
use crate::networking::{self, PortOwner};
use crate::record::SandboxRecord;

/// Takes back what an interrupted attachment, detachment or change of groups did, and tells what the row is to say.
pub async fn mend(interfaces: &Interfaces, uuid: ContainerUuid, owner: &PortOwner) -> Result<Changes> {
    let (engine, sandbox) = (&interfaces.engine, interfaces.sandbox(uuid));
    let mut record = engine.record(uuid)?;
    restore_groups(interfaces, uuid, &mut record, &owner.security_groups).await?;
    let runs = matches!(sandbox.status().await, SandboxStatus::Live(_));
    if runs {
        let there = sandbox.traffic().await?;
        record.attachments.retain(|one| there.iter().any(|slot| slot.device == one.nic.mac));
        engine.write_record(uuid, &record)?;
    }
    let strays = networking::strays(&interfaces.neutron, owner, &record.attachments).await?;
    if runs {
        detach_strays(&sandbox, &record, &strays).await?;
        interfaces.tell_guest(uuid, &record).await?;
    }
    networking::reclaim(&interfaces.neutron, owner, &strays).await?;
    Ok(addresses(&record))
}

/// Takes the interfaces of ports out of a guest that are in none of its attachments. A port's owner chooses its address and what it
/// says of whose it is: an interface that is the container's stays, whoever else has its address.
pub async fn detach_strays(sandbox: &Sandbox, record: &SandboxRecord, strays: &[Port]) -> Result<()> {
    let is_recorded = |mac: &str| record.attachments.iter().any(|one| one.nic.mac == mac);
    for port in strays.iter().filter(|port| !is_recorded(&port.mac_address)) {
        sandbox.detach(&port.mac_address).await?;
    }
    Ok(())
}

/// Binds a container's ports to this host that are bound to it under another name.
pub async fn rebind(interfaces: &Interfaces, uuid: ContainerUuid, owner: &PortOwner) -> Result<()> {
    let (engine, neutron) = (&interfaces.engine, &interfaces.neutron);
    let Some(record) = engine.find_record(uuid)? else { return Ok(()) };
    let ports: Vec<_> = record.attachments.iter().map(|one| one.port.clone()).collect();
    for port in neutron.ports_by_ids(&ports).await? {
        if port.device_id == owner.id && port.host != engine.hostname() {
            tracing::info!(port = port.id, from = port.host, "a port is bound to this host's present name");
            neutron.bind_port(&port.id, &owner.id, owner.kind, engine.hostname()).await?;
        }
    }
    Ok(())
}
