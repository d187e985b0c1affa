//! Ports that others have changed: what Neutron has of them, against what guests have been told. One call for all.

use std::collections::{BTreeSet, HashMap};

use cloud::Port;
use model::{Changes, Container, ContainerType, ContainerUuid};
use sandbox::{Phase, Situation};
use tracing::Instrument;

use super::{Manager, background_span};
use crate::error::Result;
use crate::networking::{self, Attachment};
use crate::sandbox_record::SandboxRecord;

/// What has become of the port of an attachment.
enum Fate {
    Same,
    /// It has other addresses.
    Changed(Box<Attachment>),
    /// It is gone, or somebody else's.
    Gone,
}

impl Manager {
    /// Compares the ports of all containers, and follows what has changed. Whether a port lets packets through is its agent's
    /// affair.
    pub async fn synchronise_ports(&self) -> Result<()> {
        let listed = self.neutron.ports_on(self.hostname()).await?;
        let listed: HashMap<String, Port> = listed.into_iter().map(|port| (port.id.clone(), port)).collect();
        for id in self.host.list()? {
            let Ok(uuid) = id.parse() else { continue };
            let is_same = |attachment: &Attachment| {
                let port = listed.get(&attachment.port);
                port.is_some_and(|port| port.device_id == id && attachment.has_addresses_of(port))
            };
            if self.attachments(uuid).iter().all(is_same) {
                continue;
            }
            let span = background_span(uuid);
            if let Err(e) = self.follow_ports(uuid).instrument(span.clone()).await {
                span.in_scope(|| tracing::error!("changes of its ports are not followed: {e}"));
            }
        }
        Ok(())
    }

    /// Brings a container's networks to what its ports are now. Between what was listed and this turn they may have come and
    /// gone, so that each is looked at again.
    async fn follow_ports(&self, uuid: ContainerUuid) -> Result<()> {
        let _turn = self.locks.lock(uuid).await;
        let sandbox = self.sandbox(uuid);
        let Ok(mut record) = SandboxRecord::read(sandbox.path()) else { return Ok(()) };
        let situation = sandbox.situation().await;
        if matches!(&situation, Situation::Live(state) if state.phase == Phase::Paused) {
            tracing::debug!("its ports are followed once it goes on");
            return Ok(());
        }
        let (mut gone, mut has_changed) = (Vec::new(), false);
        for attachment in std::mem::take(record.attachments_mut()) {
            match self.fate(uuid, &attachment).await? {
                Fate::Same => record.attachments_mut().push(attachment),
                Fate::Changed(now) => {
                    tracing::info!(port = now.port, "the addresses of its port have changed");
                    has_changed = true;
                    record.attachments_mut().push(*now);
                }
                Fate::Gone => {
                    tracing::warn!(port = attachment.port, "its port is gone: the interface is taken away");
                    gone.push(attachment);
                }
            }
        }
        if gone.is_empty() && !has_changed {
            return Ok(());
        }
        if let Situation::Live(_) = situation {
            for attachment in &gone {
                sandbox.detach(&attachment.nic.mac).await?;
            }
            let network = networking::guest_network(record.attachments());
            sandbox.set_network(&network, record.hostname()).await?;
        }
        networking::unplug(&gone).await;
        record.write(sandbox.path())?;
        self.save_addresses(&record, uuid).await
    }

    async fn fate(&self, uuid: ContainerUuid, attachment: &Attachment) -> Result<Fate> {
        let port = match self.neutron.port(&attachment.port).await {
            Err(e) if e.is_not_found() => return Ok(Fate::Gone),
            port => port?,
        };
        if !networking::is_owned_by(&port, &uuid.to_string(), self.hostname()) {
            return Ok(Fate::Gone);
        }
        if attachment.has_addresses_of(&port) {
            return Ok(Fate::Same);
        }
        let now = networking::describe_again(&self.neutron, attachment, &port).await?;
        Ok(Fate::Changed(Box::new(now)))
    }

    async fn save_addresses(&self, record: &SandboxRecord, uuid: ContainerUuid) -> Result<()> {
        let kind = match record {
            SandboxRecord::Container(_) => ContainerType::Container,
            SandboxRecord::Capsule(_) => ContainerType::Capsule,
        };
        let mut row = Container::get(&self.database, kind, uuid).await?;
        let addresses = Some(networking::addresses(record.attachments()));
        self.save(&mut row, Changes { addresses, ..Changes::default() }).await
    }

    /// Removes ports that were made for containers of this host whose rows are gone.
    pub async fn remove_stray_ports(&self, known: &[String]) -> Result<()> {
        for port in networking::made_for_nobody(&self.neutron, self.hostname(), known).await? {
            tracing::warn!(
                port = port.id,
                container = port.device_id,
                "no container has the port; it is removed"
            );
            networking::reclaim(&self.neutron, &port.device_id, std::slice::from_ref(&port)).await?;
        }
        Ok(())
    }

    /// Removes what is plugged on this host for containers that do not run on it: what a crash has left.
    pub async fn remove_leftover_taps(&self) -> Result<()> {
        let live =
            self.host.survey()?.into_iter().filter(|(_, situation)| matches!(situation, Situation::Live(_)));
        let uuids = live.filter_map(|(id, _)| id.parse().ok());
        let ports: BTreeSet<_> = uuids.flat_map(|uuid| self.attachments(uuid)).map(|one| one.port).collect();
        for port in network::remove_leftovers(&ports).await? {
            tracing::warn!(port, "its tap was left behind, and is removed");
        }
        Ok(())
    }
}
