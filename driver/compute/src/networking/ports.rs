//! Neutron ports: made or taken for a container, and given back.

use cloud::{Neutron, NewPort, Port};
use model::{Container, RequestedNetwork};
use serde_json::json;

use super::Attachment;
use super::description::describe;
use crate::error::{Error, Result};

/// Upstream's owner of container ports (`zun/network/kuryr_network.py`).
const DEVICE_OWNER: &str = "compute:kuryr";

/// Makes or takes a port for each network. If one fails, those before it are given back.
pub async fn attach(
    neutron: &Neutron,
    container: &Container,
    host: &str,
    networks: &[RequestedNetwork],
) -> Result<Vec<Attachment>> {
    let mut attachments = Vec::new();
    for (index, network) in networks.iter().enumerate() {
        match attach_one(neutron, container, host, network, index).await {
            Ok(attachment) => attachments.push(attachment),
            Err(e) => {
                detach(neutron, &attachments).await;
                return Err(e);
            }
        }
    }
    Ok(attachments)
}

/// Makes or takes a port, for the interface of this number.
pub async fn attach_one(
    neutron: &Neutron,
    container: &Container,
    host: &str,
    requested: &RequestedNetwork,
    index: usize,
) -> Result<Attachment> {
    if requested.pci_request_id.is_some() {
        return Err(Error::NotSupported("a PCI device as a network interface".into()));
    }
    let owner = container.uuid.to_string();
    let port = if requested.port.is_empty() {
        neutron.create_port(&new_port(container, host, requested)).await?
    } else {
        neutron.bind_port(&requested.port, &owner, DEVICE_OWNER, host).await?
    };
    let attachment = describe(neutron, &owner, host, requested, &port, index).await;
    if attachment.is_err() {
        release(neutron, &port.id, requested.preserve_on_delete).await;
    }
    attachment
}

/// Takes a port that is the container's already; if that fails, it stays so.
pub async fn take(
    neutron: &Neutron,
    owner: &str,
    host: &str,
    requested: &RequestedNetwork,
    index: usize,
) -> Result<Attachment> {
    let port = neutron.bind_port(&requested.port, owner, DEVICE_OWNER, host).await?;
    describe(neutron, owner, host, requested, &port, index).await
}

/// Whether a port is this container's, on this host.
pub fn is_owned_by(port: &Port, owner: &str, host: &str) -> bool {
    port.device_id == owner && port.host == host
}

fn new_port(container: &Container, host: &str, requested: &RequestedNetwork) -> NewPort {
    let uuid = container.uuid.to_string();
    NewPort {
        network_id: requested.network.clone(),
        tenant_id: container.project_id.clone().unwrap_or_default(),
        device_id: uuid.clone(),
        device_owner: DEVICE_OWNER.into(),
        host: host.into(),
        name: port_name(&uuid),
        fixed_ips: (!requested.fixed_ip.is_empty())
            .then(|| vec![json!({ "ip_address": requested.fixed_ip })]),
        security_groups: container.security_groups.as_ref().map(|groups| groups.0.clone()),
    }
}

/// The name of a port that this service made, by which it is told from one that was the user's before.
fn port_name(owner: &str) -> String {
    format!("zun-{owner}")
}

/// Ports of a container that are in none of its attachments: something was interrupted, or its record is lost.
pub async fn strays(neutron: &Neutron, owner: &str, attachments: &[Attachment]) -> Result<Vec<Port>> {
    let ports = neutron.ports_of(owner).await?.into_iter();
    Ok(ports.filter(|port| attachments.iter().all(|known| known.port != port.id)).collect())
}

/// Ports on a host that were made here for containers other than those known.
pub async fn made_for_nobody(neutron: &Neutron, host: &str, known: &[String]) -> Result<Vec<Port>> {
    let ports = neutron.ports_on(host).await?.into_iter();
    Ok(ports
        .filter(|port| port.name == port_name(&port.device_id) && !known.contains(&port.device_id))
        .collect())
}

/// Takes away ports of a container, and their taps.
pub async fn reclaim(neutron: &Neutron, owner: &str, ports: &[Port]) -> Result<()> {
    for port in ports {
        network::unplug(&port.id).await?;
        release(neutron, &port.id, port.name != port_name(owner)).await;
    }
    Ok(())
}

/// Gives ports back, as far as that works.
pub async fn detach(neutron: &Neutron, attachments: &[Attachment]) {
    for attachment in attachments {
        release(neutron, &attachment.port, attachment.preserve_on_delete).await;
    }
}

/// Removes a port, or takes it from its container if it is to stay.
async fn release(neutron: &Neutron, port: &str, preserve: bool) {
    let released =
        if preserve { neutron.unbind_port(port).await.map(|_| ()) } else { neutron.delete_port(port).await };
    match released {
        Err(e) if !e.is_not_found() => tracing::error!(port, "the port is left behind: {e}"),
        _ => {}
    }
}
