//! What Neutron knows of a port, as a guest needs it.

use std::net::IpAddr;

use cloud::{Network, Neutron, Port, Subnet};
use model::RequestedNetwork;
use network::DeviceNames;
use sandbox::{Nic, NicAddress, NicRoute};

use super::{Attachment, interface_name, unique};
use crate::error::{Error, Result};

const MTU_DEFAULT: u16 = 1500;

/// The place that a port gives its container, which a host of this name can plug.
pub async fn describe(
    neutron: &Neutron,
    owner: &str,
    host: &str,
    requested: &RequestedNetwork,
    port: &Port,
    index: usize,
) -> Result<Attachment> {
    let attachment = attachment(neutron, port, interface_name(index), requested.preserve_on_delete).await?;
    match attachment.vif(owner, host).validate() {
        Ok(()) => Ok(attachment),
        Err(e) => Err(Error::Network(format!("network {} cannot be bound: {e}", attachment.network))),
    }
}

/// The same place after its port has changed.
pub async fn describe_again(neutron: &Neutron, before: &Attachment, port: &Port) -> Result<Attachment> {
    attachment(neutron, port, before.nic.name.clone(), before.preserve_on_delete).await
}

async fn attachment(
    neutron: &Neutron,
    port: &Port,
    interface: String,
    preserve_on_delete: bool,
) -> Result<Attachment> {
    let network = neutron.network(&port.network_id).await?;
    let mut nic = Nic {
        tap: DeviceNames::of_port(&port.id).tap,
        mac: port.mac_address.clone(),
        mtu: if network.mtu == 0 { MTU_DEFAULT } else { network.mtu },
        name: interface,
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    let (mut dns, mut subnets) = (Vec::new(), Vec::new());
    for fixed in &port.fixed_ips {
        let subnet = neutron.subnet(&fixed.subnet_id).await?;
        let prefix = parse_prefix(&subnet.cidr)?.prefix;
        nic.addresses.push(NicAddress { ip: fixed.ip_address, prefix });
        nic.routes.extend(routes(&subnet)?);
        dns.extend(name_servers(neutron, &port.network_id, &subnet).await?);
        subnets.push(fixed.subnet_id.clone());
    }
    Ok(Attachment {
        network: port.network_id.clone(),
        port: port.id.clone(),
        preserve_on_delete,
        nic,
        dns: unique(dns),
        search: domains(port, &network),
        subnets,
        vif_type: port.vif_type.clone(),
        vif_details: port.vif_details.clone(),
    })
}

fn routes(subnet: &Subnet) -> Result<Vec<NicRoute>> {
    let default = subnet.gateway_ip.map(|gateway| NicRoute { destination: None, gateway: Some(gateway) });
    let further = subnet.host_routes.iter().map(|route| {
        Ok(NicRoute { destination: Some(parse_prefix(&route.destination)?), gateway: Some(route.nexthop) })
    });
    default.into_iter().map(Ok).chain(further).collect()
}

/// The subnet's own, or, as DHCP would say, its DHCP servers.
async fn name_servers(neutron: &Neutron, network: &str, subnet: &Subnet) -> Result<Vec<IpAddr>> {
    if !subnet.dns_nameservers.is_empty() || !subnet.enable_dhcp {
        return Ok(subnet.dns_nameservers.clone());
    }
    let ports = neutron.dhcp_ports(network).await?;
    let fixed = ports.into_iter().flat_map(|port| port.fixed_ips);
    Ok(fixed.filter(|fixed| fixed.subnet_id == subnet.id).map(|fixed| fixed.ip_address).collect())
}

/// The domain in which Neutron names the port, and that of its network.
fn domains(port: &Port, network: &Network) -> Vec<String> {
    let named =
        port.dns_assignment.iter().filter_map(|name| name.fqdn.strip_prefix(&format!("{}.", name.hostname)));
    let all = named.chain([network.dns_domain.as_str()]).map(|domain| domain.trim_end_matches('.'));
    unique(all.filter(|domain| is_domain(domain)).map(str::to_owned))
}

fn is_domain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn parse_prefix(text: &str) -> Result<NicAddress> {
    let parsed = text
        .split_once('/')
        .and_then(|(ip, prefix)| Some(NicAddress { ip: ip.parse().ok()?, prefix: prefix.parse().ok()? }));
    parsed.ok_or_else(|| Error::Network(format!("Neutron gave {text:?} as a prefix")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_subnet_brings_its_routes() {
        let subnet = |gateway: Value| -> Subnet {
            let routes = json!([{ "destination": "192.0.2.0/24", "nexthop": "10.0.0.9" }]);
            serde_json::from_value(
                json!({ "id": "s", "cidr": "10.0.0.0/24", "gateway_ip": gateway, "host_routes": routes }),
            )
            .unwrap()
        };
        let with = routes(&subnet(json!("10.0.0.1"))).unwrap();
        assert_eq!((with.len(), with[0].destination.is_none()), (2, true));
        let without = routes(&subnet(Value::Null)).unwrap();
        assert_eq!((without.len(), without[0].destination.as_ref().unwrap().prefix), (1, 24));
        assert!(parse_prefix("10.0.0.0").is_err());
    }

    #[test]
    fn a_guest_is_in_its_ports_domain() {
        let found = |assignment: Value, domain: &str| {
            let port = json!({ "id": "p", "network_id": "n", "mac_address": "m", "status": "ACTIVE", "fixed_ips": [],
                "dns_assignment": assignment });
            let network = json!({ "id": "n", "dns_domain": domain });
            domains(&serde_json::from_value(port).unwrap(), &serde_json::from_value(network).unwrap())
        };
        let named = json!([{ "hostname": "host-10-0-0-5", "ip_address": "10.0.0.5", "fqdn": "host-10-0-0-5.a.org." }]);
        assert_eq!(found(named.clone(), "b.org."), ["a.org", "b.org"]);
        assert_eq!(found(named, "a.org."), ["a.org"]);
        assert_eq!(found(json!([]), ""), [""; 0]);
        assert_eq!(found(json!([]), "x\nnameserver 10.0.0.66"), [""; 0]);
    }
}
