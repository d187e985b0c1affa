//! Neutron ports: made or taken for a sandbox, and given back.

use cloud::{Neutron, NewPort, Owned, Port};
use model::RequestedNetwork;
use serde_json::json;

use super::Attachment;
use super::description::describe;
use crate::error::{Error, Result};

/// Whose ports are, and how those are named that are made for them.
#[derive(Debug, Clone)]
pub struct PortOwner {
    /// The identifier of the sandbox, `device_id`.
    pub id: String,
    /// The project that owns what is made; empty where it is not known.
    pub project: String,
    /// What kind of thing has them, `device_owner`.
    pub kind: &'static str,
    /// The name of a port that is made, by which it is told from one that was its user's before.
    pub port_name: String,
    /// Security groups in place of the project's default.
    pub security_groups: Vec<String>,
}

impl PortOwner {
    /// Whose its ports and security groups are.
    pub fn owned(&self) -> Owned<'_> {
        if self.project.is_empty() { Owned::ByAnybody } else { Owned::By(&self.project) }
    }
}

/// Makes or takes a port for each network. If one fails, those before it are given back.
pub async fn attach(
    neutron: &Neutron,
    owner: &PortOwner,
    host: &str,
    networks: &[RequestedNetwork],
) -> Result<Vec<Attachment>> {
    let mut attachments = Vec::new();
    for (index, network) in networks.iter().enumerate() {
        match attach_one(neutron, owner, host, network, index).await {
            Ok(attachment) => attachments.push(attachment),
            Err(e) => {
                if let Err(left) = release(neutron, &attachments).await {
                    tracing::error!(sandbox = owner.id, error = %left, "ports are left behind");
                }
                return Err(e);
            }
        }
    }
    Ok(attachments)
}

/// Makes or takes a port, for the interface of this number.
pub async fn attach_one(
    neutron: &Neutron,
    owner: &PortOwner,
    host: &str,
    requested: &RequestedNetwork,
    index: usize,
) -> Result<Attachment> {
    if requested.pci_request_id.is_some() {
        return Err(Error::NotSupported("a PCI device as a network interface".into()));
    }
    let port = if requested.port.is_empty() {
        neutron.create_port(&new_port(owner, host, requested)).await?
    } else {
        neutron.bind_port(&requested.port, &owner.id, owner.kind, host).await?
    };
    let attachment = describe(neutron, &owner.id, host, requested, &port, index).await;
    if attachment.is_err()
        && let Err(left) = release_port(neutron, &port.id, requested.preserve_on_delete).await
    {
        tracing::error!(port = port.id, error = %left, "a port is left behind");
    }
    attachment
}

/// Takes a port that is the container's already; if that fails, it stays so.
pub async fn take(
    neutron: &Neutron,
    owner: &PortOwner,
    host: &str,
    requested: &RequestedNetwork,
    index: usize,
) -> Result<Attachment> {
    let port = neutron.bind_port(&requested.port, &owner.id, owner.kind, host).await?;
    describe(neutron, &owner.id, host, requested, &port, index).await
}

/// Whether a port is this container's, on this host.
pub fn is_owned_by(port: &Port, owner: &str, host: &str) -> bool {
    port.device_id == owner && port.host == host
}

fn new_port(owner: &PortOwner, host: &str, requested: &RequestedNetwork) -> NewPort {
    NewPort {
        network_id: requested.network.clone(),
        tenant_id: owner.project.clone(),
        device_id: owner.id.clone(),
        device_owner: owner.kind.into(),
        host: host.into(),
        name: owner.port_name.clone(),
        fixed_ips: (!requested.fixed_ip.is_empty())
            .then(|| vec![json!({ "ip_address": requested.fixed_ip })]),
        // An empty list would be no group at all, and let nothing through.
        security_groups: (!owner.security_groups.is_empty()).then(|| owner.security_groups.clone()),
    }
}

/// Ports of a container that are in none of its attachments: something was interrupted, or its record is lost.
pub async fn strays(neutron: &Neutron, owner: &PortOwner, attachments: &[Attachment]) -> Result<Vec<Port>> {
    let ports = neutron.ports_of(&owner.id, owner.owned()).await?.into_iter();
    Ok(ports.filter(|port| attachments.iter().all(|known| known.port != port.id)).collect())
}

/// Gives back ports of a sandbox that are in none of its attachments, and takes their taps away.
pub async fn reclaim(neutron: &Neutron, owner: &PortOwner, ports: &[Port]) -> Result<()> {
    for port in ports {
        network::unplug(&port.id, Some(&owner.id)).await?;
        release_port(neutron, &port.id, port.name != owner.port_name).await?;
    }
    Ok(())
}

/// Those of a container's attachments whose ports nobody else has been given since.
pub async fn still_owned(
    neutron: &Neutron,
    owner: &str,
    attachments: &[Attachment],
) -> Result<Vec<Attachment>> {
    let ids: Vec<_> = attachments.iter().map(|one| one.port.clone()).collect();
    let ports = neutron.ports_by_ids(&ids).await?;
    let is_others = |port: &&Port| !port.device_id.is_empty() && port.device_id != owner;
    let others: Vec<_> = ports.iter().filter(is_others).map(|port| port.id.as_str()).collect();
    Ok(attachments.iter().filter(|one| !others.contains(&one.port.as_str())).cloned().collect())
}

/// Gives ports back: all that can be, and then tells the first that could not.
pub async fn release(neutron: &Neutron, attachments: &[Attachment]) -> Result<()> {
    let mut all = Ok(());
    for attachment in attachments {
        let released = release_port(neutron, &attachment.port, attachment.preserve_on_delete).await;
        all = all.and(released);
    }
    all
}

/// Removes a port, or takes it from its sandbox if it is to stay. Idempotent: succeeds if it is gone.
async fn release_port(neutron: &Neutron, port: &str, preserve: bool) -> Result<()> {
    let released =
        if preserve { neutron.unbind_port(port).await.map(|_| ()) } else { neutron.delete_port(port).await };
    match released {
        Err(e) if !e.is_not_found() => Err(e.into()),
        _ => Ok(()),
    }
}
