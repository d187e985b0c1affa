//! From requested networks to ports, taps and the guest's network, and back.

use std::net::IpAddr;
use std::time::Duration;

use cloud::{Neutron, NewPort, Port, Subnet};
use model::{Address, Addresses, Container, RequestedNetwork};
use network::{TapName, Vif};
use sandbox::{GuestNetwork, Nic, NicAddress, NicRoute};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};

/// Upstream's owner of container ports (`zun/network/kuryr_network.py`).
const DEVICE_OWNER: &str = "compute:zun";
const POLL_INTERVAL: Duration = Duration::from_millis(250);
const MTU_DEFAULT: u16 = 1500;

/// A container's place on one network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    pub network: String,
    /// The port.
    pub port: String,
    /// Whether the port stays when the container goes.
    pub preserve_on_delete: bool,
    /// The guest's interface.
    pub nic: Nic,
    /// Name servers of the network.
    pub dns: Vec<IpAddr>,
    /// Subnet of each address.
    pub subnets: Vec<String>,
    /// `binding:vif_type`.
    pub vif_type: String,
    /// `binding:vif_details`.
    pub vif_details: serde_json::Map<String, serde_json::Value>,
}

impl Attachment {
    fn vif(&self, owner: &str, host: &str) -> Vif {
        Vif {
            port_id: self.port.clone(),
            owner: owner.to_owned(),
            host: host.to_owned(),
            mac: self.nic.mac.clone(),
            mtu: self.nic.mtu,
            vif_type: self.vif_type.clone(),
            details: self.vif_details.clone(),
        }
    }
}

/// How long Neutron may take to wire a port.
#[derive(Debug, Clone, Copy)]
pub struct Plugging {
    /// Longest wait.
    pub timeout: Duration,
    /// Whether a longer one is an error.
    pub is_fatal: bool,
}

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

/// The number of the first interface name, `eth0` and so on, that no attachment has.
pub fn free_index(attachments: &[Attachment]) -> usize {
    let is_free = |index: &usize| attachments.iter().all(|one| one.nic.name != interface_name(*index));
    (0..=attachments.len()).find(is_free).unwrap_or(attachments.len())
}

fn interface_name(index: usize) -> String {
    format!("eth{index}")
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
    let attachment = described(neutron, &owner, host, requested, &port, index).await;
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
    described(neutron, owner, host, requested, &port, index).await
}

async fn described(
    neutron: &Neutron,
    owner: &str,
    host: &str,
    requested: &RequestedNetwork,
    port: &Port,
    index: usize,
) -> Result<Attachment> {
    bindable(describe(neutron, requested, port, index).await?, owner, host)
}

fn bindable(attachment: Attachment, owner: &str, host: &str) -> Result<Attachment> {
    match attachment.vif(owner, host).validate() {
        Ok(()) => Ok(attachment),
        Err(e) => Err(Error::Network(format!("network {} cannot be bound: {e}", attachment.network))),
    }
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

/// What the guest needs to know of its port.
async fn describe(
    neutron: &Neutron,
    requested: &RequestedNetwork,
    port: &Port,
    index: usize,
) -> Result<Attachment> {
    let network = neutron.network(&port.network_id).await?;
    let mut nic = Nic {
        tap: TapName::of_port(&port.id).to_string(),
        mac: port.mac_address.clone(),
        mtu: if network.mtu == 0 { MTU_DEFAULT } else { network.mtu },
        name: interface_name(index),
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    let (mut dns, mut subnets) = (Vec::new(), Vec::new());
    for fixed in &port.fixed_ips {
        let subnet = neutron.subnet(&fixed.subnet_id).await?;
        let prefix = parse_prefix(&subnet.cidr)?.prefix;
        nic.addresses.push(NicAddress { ip: fixed.ip_address, prefix });
        nic.routes.extend(routes(&subnet, index)?);
        dns.extend(subnet.dns_nameservers.iter().copied());
        subnets.push(fixed.subnet_id.clone());
    }
    let attachment = Attachment {
        network: port.network_id.clone(),
        port: port.id.clone(),
        preserve_on_delete: requested.preserve_on_delete,
        nic,
        dns,
        subnets,
        vif_type: port.vif_type.clone(),
        vif_details: port.vif_details.clone(),
    };
    Ok(attachment)
}

/// The subnet's routes; only the first interface has the default one.
fn routes(subnet: &Subnet, index: usize) -> Result<Vec<NicRoute>> {
    let mut routes = Vec::new();
    if let (0, Some(gateway)) = (index, subnet.gateway_ip) {
        routes.push(NicRoute { destination: None, gateway: Some(gateway) });
    }
    for route in &subnet.host_routes {
        let destination = Some(parse_prefix(&route.destination)?);
        routes.push(NicRoute { destination, gateway: Some(route.nexthop) });
    }
    Ok(routes)
}

fn parse_prefix(text: &str) -> Result<NicAddress> {
    let parsed = text
        .split_once('/')
        .and_then(|(ip, prefix)| Some(NicAddress { ip: ip.parse().ok()?, prefix: prefix.parse().ok()? }));
    parsed.ok_or_else(|| Error::Network(format!("Neutron gave {text:?} as a prefix")))
}

/// What a guest is told of its networks.
pub fn guest_network(attachments: &[Attachment]) -> GuestNetwork {
    GuestNetwork {
        nics: attachments.iter().map(|attachment| attachment.nic.clone()).collect(),
        dns: attachments.iter().flat_map(|attachment| attachment.dns.clone()).collect(),
    }
}

/// The addresses as upstream writes them into a container's row.
pub fn addresses(attachments: &[Attachment]) -> Addresses {
    let mut addresses = Addresses::new();
    for attachment in attachments {
        let entries =
            attachment.nic.addresses.iter().zip(&attachment.subnets).map(|(address, subnet)| Address {
                addr: address.ip.to_string(),
                version: if address.ip.is_ipv4() { 4 } else { 6 },
                port: attachment.port.clone(),
                subnet_id: Some(subnet.clone()),
                preserve_on_delete: attachment.preserve_on_delete,
            });
        addresses.entry(attachment.network.clone()).or_default().extend(entries);
    }
    addresses
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

/// Takes away ports of a container, and their taps.
pub async fn reclaim(neutron: &Neutron, owner: &str, ports: &[Port]) -> Result<()> {
    for port in ports {
        Vif::unplug(&TapName::of_port(&port.id)).await?;
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

/// Puts a container's taps on their bridges. If one fails, none is left.
pub async fn plug(attachments: &[Attachment], owner: &str, host: &str) -> Result<()> {
    for attachment in attachments {
        if let Err(e) = attachment.vif(owner, host).plug().await {
            unplug(attachments).await;
            return Err(e.into());
        }
    }
    Ok(())
}

/// Takes a container's taps away, as far as that works.
pub async fn unplug(attachments: &[Attachment]) {
    for attachment in attachments {
        let tap = TapName::of_port(&attachment.port);
        if let Err(e) = Vif::unplug(&tap).await {
            tracing::error!("tap {tap} is left behind: {e}");
        }
    }
}

/// Waits until Neutron reports the ports wired.
pub async fn wait_active(neutron: &Neutron, attachments: &[Attachment], plugging: Plugging) -> Result<()> {
    if plugging.timeout.is_zero() {
        return Ok(());
    }
    let deadline = Instant::now() + plugging.timeout;
    for attachment in attachments {
        let port = &attachment.port;
        while neutron.port(port).await?.status != "ACTIVE" {
            if Instant::now() < deadline {
                sleep(POLL_INTERVAL).await;
                continue;
            }
            let message = format!("port {port} was not active within {} s", plugging.timeout.as_secs());
            if plugging.is_fatal {
                return Err(Error::Network(message));
            }
            tracing::warn!("{message}");
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cloud::HostRoute;

    use super::*;

    fn subnet() -> Subnet {
        Subnet {
            id: "s".into(),
            cidr: "10.0.0.0/24".into(),
            gateway_ip: Some("10.0.0.1".parse().unwrap()),
            dns_nameservers: Vec::new(),
            host_routes: vec![HostRoute {
                destination: "192.0.2.0/24".into(),
                nexthop: "10.0.0.9".parse().unwrap(),
            }],
        }
    }

    #[test]
    fn only_the_first_interface_has_the_default_route() {
        let first = routes(&subnet(), 0).unwrap();
        assert_eq!((first.len(), first[0].destination.is_none()), (2, true));
        let second = routes(&subnet(), 1).unwrap();
        assert_eq!(second[0].destination.as_ref().unwrap().prefix, 24);
    }

    #[test]
    fn an_interface_gets_the_first_free_name() {
        let named = |name: &str| {
            let mut attachment = attachment();
            attachment.nic.name = name.into();
            attachment
        };
        assert_eq!(free_index(&[]), 0);
        assert_eq!(free_index(&[named("eth0"), named("eth1")]), 2);
        assert_eq!(free_index(&[named("eth2"), named("eth0")]), 1);
    }

    fn attachment() -> Attachment {
        Attachment {
            network: "n".into(),
            port: "p".into(),
            preserve_on_delete: true,
            nic: Nic {
                tap: "tap".into(),
                mac: "fa:16:3e:00:00:01".into(),
                mtu: 1450,
                name: "eth0".into(),
                addresses: vec![
                    NicAddress { ip: "10.0.0.5".parse().unwrap(), prefix: 24 },
                    NicAddress { ip: "fd00::5".parse().unwrap(), prefix: 64 },
                ],
                routes: Vec::new(),
            },
            dns: Vec::new(),
            subnets: vec!["s4".into(), "s6".into()],
            vif_type: "ovs".into(),
            vif_details: serde_json::Map::new(),
        }
    }

    #[test]
    fn addresses_have_upstreams_form() {
        let value = serde_json::to_value(addresses(&[attachment()])).unwrap();
        assert_eq!(
            value["n"][0],
            json!({ "addr": "10.0.0.5", "version": 4, "port": "p", "subnet_id": "s4",
            "preserve_on_delete": true })
        );
        assert_eq!(
            (value["n"][1]["version"].as_u64(), value["n"][1]["subnet_id"].as_str()),
            (Some(6), Some("s6"))
        );
    }
}
