//! Sandboxes without a row in Zun's database, and what could not be given back of containers.

use cloud::{Keystone, Neutron, Placement};
use model::{Container, ContainerUuid};
use sandbox::Host;
use uuid::Uuid;

use crate::belongings::{Debt, Debts};
use crate::error::{Error, Result};
use crate::networking;
use crate::options::Options;
use crate::record::{SandboxRecord, sandbox_name};
use crate::zun::provisioner::port_owner_of;

/// The sandboxes of this host of which Zun's database knows nothing, a line each.
pub async fn list(options: &Options) -> Result<String> {
    let mut text = String::new();
    for uuid in orphans(options).await? {
        let status = Host::new(options.host())?.sandbox(&sandbox_name(uuid)).status().await;
        text.push_str(&format!("{uuid} {}\n", if status.may_live() { "running" } else { "stopped" }));
    }
    Ok(text)
}

/// Removes one: its guest, its ports, its allocation, its disks.
pub async fn remove(options: &Options, uuid: Uuid) -> Result<()> {
    options.validate()?;
    let container = ContainerUuid(uuid);
    let sandbox = Host::new(options.host())?.sandbox(&sandbox_name(container));
    if !sandbox.exists() {
        return Err(Error::NoOrphan(uuid, "this host has none of that name"));
    }
    if !orphans(options).await?.contains(&container) {
        return Err(Error::NoOrphan(uuid, "Zun's database has its container"));
    }
    let keystone = Keystone::connect(&options.keystone_auth).await?;
    let neutron = Neutron::new(keystone.clone(), options.neutron_client.clone());
    let placement = Placement::new(keystone, options.placement_client.clone());
    let record = SandboxRecord::find(sandbox.path()).ok().flatten();
    // What a guest has not written to its volumes yet would be lost with it.
    match record.as_ref().is_some_and(SandboxRecord::has_volumes) {
        true => sandbox.shut_down().await?,
        false => sandbox.kill().await?,
    }
    let attachments = record.map(|record| record.attachments).unwrap_or_default();
    let owner = port_owner_of(container);
    let attachments = networking::still_owned(&neutron, &owner.id, &attachments).await?;
    networking::unplug(&attachments, &owner.id).await;
    networking::release(&neutron, &attachments).await?;
    let strays = networking::strays(&neutron, &owner, &[]).await?;
    networking::reclaim(&neutron, &owner, &strays).await?;
    networking::exposed_ports::close(&neutron, container, owner.owned()).await?;
    placement.delete_allocations(&owner.id).await?;
    Ok(sandbox.delete().await?)
}

async fn orphans(options: &Options) -> Result<Vec<ContainerUuid>> {
    let host = Host::new(options.host())?;
    let here: Vec<ContainerUuid> = host.list()?.iter().filter_map(|name| name.parse().ok()).collect();
    let known = Container::hosts_of(&options.database_url()?.pool(1), &here).await?;
    Ok(here.into_iter().filter(|uuid| !known.contains_key(uuid)).collect())
}

/// What could not be given back of containers, a line each.
pub fn debts(options: &Options) -> Result<String> {
    let debts = Debts::reader(options.kata.state_path.join("debts")).list()?;
    let line = |(uuid, debt): (ContainerUuid, Debt)| {
        let left = &debt.belongings;
        let parts = [
            (left.sandbox, "sandbox"),
            (left.ports, "ports"),
            (left.security_group, "security group"),
            (!left.volumes.is_empty(), "volumes"),
            (left.allocation, "allocation"),
        ];
        let parts: Vec<_> = parts.into_iter().filter_map(|(is_left, name)| is_left.then_some(name)).collect();
        format!("{uuid} since {}: {}: {}\n", debt.since, parts.join(", "), debt.reason)
    };
    Ok(debts.into_iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::belongings::Belongings;

    #[test]
    fn a_debt_is_told_with_what_is_left_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.kata.state_path = folder.path().to_owned();
        assert_eq!(debts(&options).unwrap(), "");
        let container = ContainerUuid(Uuid::new_v4());
        let all = Belongings::of(container, "p".into(), Vec::new(), &[]).unwrap();
        let belongings = Belongings { sandbox: false, security_group: false, ..all };
        let debt = Debt { belongings, since: OffsetDateTime::UNIX_EPOCH, reason: "Neutron is away".into() };
        Debts::open(folder.path().join("debts")).unwrap().write(container, &debt).unwrap();
        let told = debts(&options).unwrap();
        assert_eq!(
            told,
            format!("{container} since 1970-01-01 0:00:00.0 +00:00:00: ports, allocation: Neutron is away\n")
        );
    }
}
