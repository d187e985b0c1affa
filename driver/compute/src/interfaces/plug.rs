//! `network_attach` and `network_detach`: interfaces that come and go, of a container that runs or not.

use model::{Changes, Container, ContainerUuid, RequestedNetwork};
use sandbox::SandboxStatus;

use super::Interfaces;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networking::{self, Attachment, PortOwner};
use crate::record::SandboxRecord;

/// Gives a container an interface. If that fails, its networks are what they were, and the port is given back.
pub async fn attach(
    interfaces: &Interfaces,
    row: &Container,
    owner: &PortOwner,
    network: &RequestedNetwork,
) -> Result<Changes> {
    let (uuid, engine) = (row.uuid, &interfaces.engine);
    let mut record = engine.record(uuid)?;
    if record.attachments.iter().any(|attachment| attachment.network == network.network) {
        return Err(Error::Conflict(format!(
            "Container {uuid} has already connected to the network {}.",
            network.network
        )));
    }
    let index = networking::free_index(&record.attachments);
    let attachment =
        networking::attach_one(&interfaces.neutron, owner, engine.hostname(), network, index).await?;
    record.attachments.push(attachment.clone());
    match put_to_use(interfaces, uuid, &record, &attachment).await {
        Ok(()) => Ok(addresses(&record)),
        Err(e) => {
            record.attachments.pop();
            let written = engine.write_record(uuid, &record);
            let taken = take_away(interfaces, uuid, &record, &[attachment]).await;
            if let Err(left) = written.and(taken) {
                tracing::error!(error = %left, "something of an interface is left behind");
            }
            Err(e)
        }
    }
}

async fn put_to_use(
    interfaces: &Interfaces,
    uuid: ContainerUuid,
    record: &SandboxRecord,
    attachment: &Attachment,
) -> Result<()> {
    let engine = &interfaces.engine;
    record.sandbox_spec(&interfaces.kata).validate()?;
    engine.write_record(uuid, record)?;
    let sandbox = engine.sandbox(uuid);
    if let SandboxStatus::Live(_) = sandbox.status().await {
        let one = std::slice::from_ref(attachment);
        networking::plug(one, &uuid.to_string(), engine.hostname(), sandbox.queue_pairs()?).await?;
        networking::wait_active(&interfaces.neutron, one, engine.plugging()).await?;
        sandbox.attach(&attachment.nic, interfaces.kata.nic_limit()).await?;
        interfaces.tell_guest(uuid, record).await?;
    }
    Ok(())
}

/// Takes a container's interface on a network away, and gives its port back.
pub async fn detach(interfaces: &Interfaces, row: &Container, network: &str) -> Result<Changes> {
    let (uuid, engine) = (row.uuid, &interfaces.engine);
    let mut record = engine.record(uuid)?;
    let (leaving, staying): (Vec<_>, Vec<_>) =
        record.attachments.into_iter().partition(|attachment| attachment.network == network);
    if leaving.is_empty() {
        let reason = format!("{network} is not attached to container {uuid}");
        return Err(Error::invalid("network", reason));
    }
    record.attachments = staying;
    take_away(interfaces, uuid, &record, &leaving).await?;
    engine.write_record(uuid, &record)?;
    Ok(addresses(&record))
}

/// What a row says of a sandbox's networks.
pub fn addresses(record: &SandboxRecord) -> Changes {
    Changes { addresses: Some(networking::addresses(&record.attachments)), ..Changes::default() }
}

/// Takes interfaces out of a container that keeps those of its record, and gives their ports back.
async fn take_away(
    interfaces: &Interfaces,
    uuid: ContainerUuid,
    record: &SandboxRecord,
    attachments: &[Attachment],
) -> Result<()> {
    let sandbox = interfaces.sandbox(uuid);
    if sandbox.status().await.may_live() {
        for attachment in attachments {
            sandbox.detach(&attachment.nic.mac).await?;
        }
        interfaces.tell_guest(uuid, record).await?;
    }
    networking::unplug(attachments, &uuid.to_string()).await;
    networking::release(&interfaces.neutron, attachments).await
}
