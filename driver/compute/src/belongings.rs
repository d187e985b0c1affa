//! What a container has on this host and elsewhere, and how it is given back. What a creation that failed, or a deletion that was
//! forced, could not give back is remembered as a debt, and paid later.

use std::sync::Arc;

use cloud::{Neutron, Placement};
use model::{ContainerUuid, VolumeMapping};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::kept::Kept;
use crate::networking::{self, Attachment, PortOwner, exposed_ports};
use crate::pins::Pins;
use crate::volumes::{OwnedVolume, Volumes};

/// What a container or a capsule has. What has been given back is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Belongings {
    /// Whose it is.
    pub container: ContainerUuid,
    /// The project whose ports and security group they are; empty where it is not known.
    #[serde(default)]
    pub project: String,
    /// Whether this host may have a sandbox of it.
    pub sandbox: bool,
    /// Its places on networks, as far as they are recorded.
    pub attachments: Vec<Attachment>,
    /// Whether Neutron may have ports of it.
    pub ports: bool,
    /// Whether Neutron may have a security group of its own.
    pub security_group: bool,
    /// Its volumes.
    pub volumes: Vec<OwnedVolume>,
    /// Whether Placement may have an allocation of it.
    pub allocation: bool,
}

impl Belongings {
    /// All that a container of these networks and volumes may have.
    pub fn of(
        container: ContainerUuid,
        project: String,
        attachments: Vec<Attachment>,
        mappings: &[VolumeMapping],
    ) -> Result<Self> {
        Ok(Self {
            container,
            project,
            sandbox: true,
            attachments,
            ports: true,
            security_group: true,
            volumes: OwnedVolume::each_once(mappings)?,
            allocation: true,
        })
    }

    /// What one may have that no host has begun to make.
    pub fn of_unbegun(container: ContainerUuid, mappings: &[VolumeMapping]) -> Result<Self> {
        let all = Self::of(container, String::new(), Vec::new(), mappings)?;
        Ok(Self { sandbox: false, ports: false, security_group: false, ..all })
    }

    /// With what was known to be left before. A deletion that is done again knows no more of what it has forgotten.
    fn and(mut self, before: Self) -> Self {
        let is_new = |volume: &OwnedVolume| self.volumes.iter().all(|known| known.id != volume.id);
        let volumes: Vec<_> = before.volumes.into_iter().filter(is_new).collect();
        let is_new = |one: &Attachment| self.attachments.iter().all(|known| known.port != one.port);
        let attachments: Vec<_> = before.attachments.into_iter().filter(is_new).collect();
        self.volumes.extend(volumes);
        self.attachments.extend(attachments);
        Self {
            project: if self.project.is_empty() { before.project } else { self.project },
            sandbox: self.sandbox || before.sandbox,
            ports: self.ports || before.ports,
            security_group: self.security_group || before.security_group,
            allocation: self.allocation || before.allocation,
            ..self
        }
    }
}

/// What could not be given back of a container whose row is gone, or names no host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Debt {
    /// What is left.
    pub belongings: Belongings,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Why it could not be given back when that was last tried.
    pub reason: String,
}

/// The debts of this host.
pub type Debts = Kept<Debt>;

/// Gives back what containers have.
#[derive(Clone)]
pub struct GiveBack {
    engine: HostEngine,
    neutron: Neutron,
    placement: Placement,
    volumes: Volumes,
    pins: Arc<Pins>,
    debts: Debts,
}

impl GiveBack {
    /// Gives back to these.
    pub fn new(
        engine: HostEngine,
        neutron: Neutron,
        placement: Placement,
        volumes: Volumes,
        pins: Arc<Pins>,
        debts: Debts,
    ) -> Self {
        Self { engine, neutron, placement, volumes, pins, debts }
    }

    /// Gives all back, each part whatever became of the others, and tells the first failure. What was given back is left out of
    /// `belongings`. While its guest may run, nothing is taken from under it.
    pub async fn all(&self, belongings: &mut Belongings, owner: &PortOwner) -> Result<()> {
        let uuid = belongings.container;
        let sandbox = self.engine.sandbox(uuid);
        if belongings.sandbox {
            // What a guest has not written to its volumes yet would be lost with it.
            let ended =
                if belongings.volumes.is_empty() { sandbox.kill().await } else { sandbox.shut_down().await };
            ended?;
        }
        let mut all = Ok(());
        if belongings.ports {
            if belongings.sandbox {
                networking::unplug(&belongings.attachments, &uuid.to_string()).await;
            }
            let given = self.ports(&belongings.attachments, owner).await;
            belongings.ports = given.is_err();
            if given.is_ok() {
                belongings.attachments.clear();
            }
            all = all.and(given);
        }
        if belongings.security_group {
            let closed = exposed_ports::close(&self.neutron, uuid, owner.owned()).await;
            belongings.security_group = closed.is_err();
            all = all.and(closed);
        }
        for volume in std::mem::take(&mut belongings.volumes) {
            if let Err(e) = self.volumes.detach(uuid, &volume).await {
                all = all.and(Err(e));
                belongings.volumes.push(volume);
            }
        }
        if belongings.allocation {
            let deleted = self.placement.delete_allocations(&uuid.to_string()).await;
            belongings.allocation = deleted.is_err();
            all = all.and(deleted.map_err(Into::into));
        }
        // The folder names its ports: it stays while they do.
        if belongings.sandbox && !belongings.ports {
            let deleted = sandbox.delete().await;
            belongings.sandbox = deleted.is_err();
            all = all.and(deleted.map_err(Into::into));
            self.pins.remove(uuid);
        }
        all
    }

    async fn ports(&self, attachments: &[Attachment], owner: &PortOwner) -> Result<()> {
        // A debt may be paid when somebody else has been given a port that was its user's.
        let attachments = networking::still_owned(&self.neutron, &owner.id, attachments).await?;
        networking::release(&self.neutron, &attachments).await?;
        // What was interrupted, or whose record is lost: Neutron knows whose its ports are.
        let strays = networking::strays(&self.neutron, owner, &[]).await?;
        networking::reclaim(&self.neutron, owner, &strays).await
    }

    /// Remembers what could not be given back. The sandbox itself goes if it can: its row will not be there to name it.
    pub async fn remember(&self, mut belongings: Belongings, reason: &Error) -> Result<()> {
        let uuid = belongings.container;
        if belongings.sandbox && self.engine.sandbox(uuid).delete().await.is_ok() {
            belongings.sandbox = false;
            self.pins.remove(uuid);
        }
        tracing::error!(error = %reason, "what could not be given back is given back later");
        let reason = reason.to_string();
        let debt = match self.debts.find(uuid)? {
            None => Debt { belongings, since: OffsetDateTime::now_utc(), reason },
            Some(before) => Debt { belongings: belongings.and(before.belongings), reason, ..before },
        };
        self.debts.write(uuid, &debt)
    }

    /// Pays a debt as far as that is possible by now. The caller has the container's turn, and knows that no row of
    /// it names a host.
    pub async fn pay(&self, mut debt: Debt, owner: PortOwner) -> Result<()> {
        let uuid = debt.belongings.container;
        let owner = PortOwner { project: debt.belongings.project.clone(), ..owner };
        match self.all(&mut debt.belongings, &owner).await {
            Ok(()) => {
                tracing::info!("a debt has been paid");
                self.debts.forget(uuid)
            }
            Err(e) => {
                tracing::warn!(error = %e, "a debt is still not paid in full");
                self.debts.write(uuid, &Debt { reason: e.to_string(), ..debt })
            }
        }
    }

    /// What this host owes.
    pub fn debts(&self) -> &Debts {
        &self.debts
    }

    /// The networks of a sandbox, as far as they are recorded.
    pub fn attachments(&self, uuid: ContainerUuid) -> Vec<Attachment> {
        self.engine.record(uuid).map(|record| record.attachments).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_debt_keeps_what_a_second_deletion_no_longer_knows() {
        let container = ContainerUuid(Uuid::new_v4());
        let volume = |id| OwnedVolume { id: Uuid::from_u128(id), connection_info: None, auto_remove: true };
        let all = Belongings::of(container, "p".into(), Vec::new(), &[]).unwrap();
        let first = Belongings { allocation: false, volumes: vec![volume(1), volume(2)], ..all.clone() };
        let second = Belongings { project: String::new(), ports: false, volumes: vec![volume(2)], ..all };
        let debt = second.and(first);
        let volumes: Vec<_> = debt.volumes.iter().map(|volume| volume.id.as_u128()).collect();
        assert_eq!((volumes, debt.project.as_str()), (vec![2, 1], "p"));
        assert!(debt.ports && debt.allocation && debt.sandbox);
    }

    #[test]
    fn what_nobody_has_begun_has_neither_ports_nor_a_sandbox() {
        let unbegun = Belongings::of_unbegun(ContainerUuid(Uuid::new_v4()), &[]).unwrap();
        assert!(unbegun.allocation && !unbegun.ports && !unbegun.sandbox && !unbegun.security_group);
    }
}
