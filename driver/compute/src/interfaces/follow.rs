//! Ports that others have changed: what Neutron has of them, against what guests have been told. One call for all.

use std::collections::HashMap;

use cloud::Port;
use model::{Changes, ContainerUuid};
use sandbox::{Phase, SandboxStatus};
use tokio::task::block_in_place;

use super::Interfaces;
use super::groups::restore_groups;
use super::mend::detach_strays;
use super::plug::addresses;
use crate::engine::Engine;
use crate::error::Result;
use crate::networking::{self, Attachment, PortOwner};
use crate::record::SandboxRecord;

/// What has become of the port of an attachment.
enum Fate {
    Same,
    /// It has other addresses.
    Changed(Box<Attachment>),
    /// It is gone, or somebody else's.
    Gone,
}

impl Interfaces {
    /// The containers whose ports are not what their guests have been told.
    pub async fn differing(&self) -> Result<Vec<ContainerUuid>> {
        let listed = self.neutron.ports_on(self.engine.hostname()).await?;
        let listed: HashMap<String, Port> = listed.into_iter().map(|port| (port.id.clone(), port)).collect();
        let mut ports_of: HashMap<&str, Vec<&Port>> = HashMap::new();
        for port in listed.values() {
            ports_of.entry(port.device_id.as_str()).or_default().push(port);
        }
        let sandboxes = self.engine.survey()?.into_keys();
        let is_differing = |id: &ContainerUuid| {
            let record = self.engine.record(*id);
            record.is_ok_and(|record| differs(*id, &record, &listed, &ports_of))
        };
        // Each record is a file.
        Ok(block_in_place(|| sandboxes.filter(is_differing).collect()))
    }
}

/// Whether a sandbox has other ports than its record says, or a change of groups that has not come to its end.
fn differs(
    id: ContainerUuid,
    record: &SandboxRecord,
    listed: &HashMap<String, Port>,
    ports_of: &HashMap<&str, Vec<&Port>>,
) -> bool {
    let id = id.to_string();
    let is_same = |attachment: &Attachment| {
        let port = listed.get(&attachment.port);
        port.is_some_and(|port| port.device_id == id && attachment.has_addresses_of(port))
    };
    // Anybody may say of his port that it is this container's.
    let is_stray = |port: &&Port| port.project_id == record.owner && !record.has_port(&port.id);
    let has_strays = ports_of.get(id.as_str()).into_iter().flatten().any(is_stray);
    !record.attachments.iter().all(is_same) || has_strays || record.regrouping.is_some()
}

/// Brings a container's networks to what its ports are now, and tells what its record and its row are to say; nothing where they
/// are the same. Ports of its that are in no record are given back: an attachment has left them. Between what was listed and this
/// turn ports may have come and gone, so that each is looked at again.
pub async fn follow_changes(
    interfaces: &Interfaces,
    uuid: ContainerUuid,
    owner: &PortOwner,
) -> Result<Option<(SandboxRecord, Changes)>> {
    let sandbox = interfaces.sandbox(uuid);
    let Ok(mut record) = interfaces.engine.record(uuid) else { return Ok(None) };
    restore_groups(interfaces, uuid, &mut record, &owner.security_groups).await?;
    let status = sandbox.status().await;
    match &status {
        SandboxStatus::Unanswered => return Ok(None),
        SandboxStatus::Live(state) if state.phase == Phase::Paused => {
            tracing::debug!("the ports of a paused container are followed once it goes on");
            return Ok(None);
        }
        SandboxStatus::Live(_) | SandboxStatus::Over(_) | SandboxStatus::Absent => {}
    }
    let strays = networking::strays(&interfaces.neutron, owner, &record.attachments).await?;
    if let SandboxStatus::Live(_) = status {
        detach_strays(&sandbox, &record, &strays).await?;
    }
    // What is left is reclaimed the next time: it keeps no change of the container's own ports from being followed.
    if let Err(e) = networking::reclaim(&interfaces.neutron, owner, &strays).await {
        tracing::warn!(error = %e, "a port that an attachment has left is not given back yet");
    }
    let (mut gone, mut has_changed) = (Vec::new(), false);
    for attachment in std::mem::take(&mut record.attachments) {
        match fate(interfaces, uuid, &attachment).await? {
            Fate::Same => record.attachments.push(attachment),
            Fate::Changed(now) => {
                tracing::info!(port = now.port, "the addresses of a port have changed");
                has_changed = true;
                record.attachments.push(*now);
            }
            Fate::Gone => {
                tracing::warn!(port = attachment.port, "a port is gone: its interface is taken away");
                gone.push(attachment);
            }
        }
    }
    if gone.is_empty() && !has_changed {
        return Ok(None);
    }
    if let SandboxStatus::Live(_) = status {
        for attachment in &gone {
            sandbox.detach(&attachment.nic.mac).await?;
        }
        interfaces.tell_guest(uuid, &record).await?;
    }
    networking::unplug(&gone, &owner.id).await;
    let changes = addresses(&record);
    Ok(Some((record, changes)))
}

/// A port that is this sandbox's, and bound to another name of a host, is left alone: it is about to be bound again.
async fn fate(interfaces: &Interfaces, uuid: ContainerUuid, attachment: &Attachment) -> Result<Fate> {
    let neutron = &interfaces.neutron;
    let port = match neutron.port(&attachment.port).await {
        Err(e) if e.is_not_found() => return Ok(Fate::Gone),
        port => port?,
    };
    if port.device_id == uuid.to_string()
        && !port.host.is_empty()
        && port.host != interfaces.engine.hostname()
    {
        return Ok(Fate::Same);
    }
    if !networking::is_owned_by(&port, &uuid.to_string(), interfaces.engine.hostname()) {
        return Ok(Fate::Gone);
    }
    if attachment.has_addresses_of(&port) {
        return Ok(Fate::Same);
    }
    let now = networking::describe_again(neutron, attachment, &port).await?;
    Ok(Fate::Changed(Box::new(now)))
}
