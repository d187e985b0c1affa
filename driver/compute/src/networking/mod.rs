//! From requested networks to ports, taps and the guest's network, and back.

mod description;
pub mod exposed_ports;
mod plugging;
mod ports;

use std::collections::BTreeSet;
use std::net::IpAddr;

use cloud::Port;
use model::{Address, Addresses};
use network::Vif;
use sandbox::{GuestNetwork, Nic};
use serde::{Deserialize, Serialize};

pub use description::describe_again;
pub use plugging::{Plugging, plug, unplug, wait_active};
pub use ports::{PortOwner, attach, attach_one, is_owned_by, reclaim, release, still_owned, strays, take};

/// A container's place on one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Domains in which names are looked for.
    #[serde(default)]
    pub search: Vec<String>,
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
            network_id: self.network.clone(),
            owner: owner.to_owned(),
            host: host.to_owned(),
            mac: self.nic.mac.clone(),
            mtu: self.nic.mtu,
            vif_type: self.vif_type.clone(),
            details: self.vif_details.clone(),
        }
    }

    /// Whether the port still has the addresses that the guest has, and no others.
    pub fn has_addresses_of(&self, port: &Port) -> bool {
        let ours =
            self.nic.addresses.iter().map(|address| address.ip).zip(self.subnets.iter().map(String::as_str));
        let theirs = port.fixed_ips.iter().map(|fixed| (fixed.ip_address, fixed.subnet_id.as_str()));
        ours.collect::<BTreeSet<_>>() == theirs.collect()
    }
}

/// The number of the first interface name, `eth0` and so on, that no attachment has.
pub fn free_index(attachments: &[Attachment]) -> usize {
    let is_free = |index: &usize| attachments.iter().all(|one| one.nic.name != interface_name(*index));
    (0..=attachments.len()).find(is_free).unwrap_or(attachments.len())
}

fn interface_name(index: usize) -> String {
    format!("eth{index}")
}

/// What a guest is told of its networks.
pub fn guest_network(attachments: &[Attachment]) -> GuestNetwork {
    GuestNetwork {
        nics: attachments.iter().map(|attachment| attachment.nic.clone()).collect(),
        dns: unique(attachments.iter().flat_map(|attachment| attachment.dns.clone())),
        search: unique(attachments.iter().flat_map(|attachment| attachment.search.clone())),
    }
}

/// Each once, where it comes first.
fn unique<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    all.into_iter().fold(Vec::new(), |mut seen, one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
        seen
    })
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

#[cfg(test)]
mod tests {
    use sandbox::NicAddress;
    use serde_json::json;

    use super::*;

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
            dns: vec!["10.0.0.2".parse().unwrap()],
            search: vec!["example.org".into()],
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

    #[test]
    fn name_servers_and_domains_are_told_once() {
        let network = guest_network(&[attachment(), attachment()]);
        assert_eq!((network.nics.len(), network.dns.len(), network.search.len()), (2, 1, 1));
    }

    #[test]
    fn a_change_of_addresses_is_seen_in_any_order() {
        let port = |ips: serde_json::Value| -> Port {
            serde_json::from_value(
                json!({ "id": "p", "network_id": "n", "mac_address": "m", "status": "ACTIVE",
                "fixed_ips": ips }),
            )
            .unwrap()
        };
        let (v4, v6) = (
            json!({ "subnet_id": "s4", "ip_address": "10.0.0.5" }),
            json!({ "subnet_id": "s6", "ip_address": "fd00::5" }),
        );
        assert!(attachment().has_addresses_of(&port(json!([v6, v4]))));
        for other in [json!([v4]), json!([]), json!([v4, { "subnet_id": "s6", "ip_address": "fd00::6" }])] {
            assert!(!attachment().has_addresses_of(&port(other.clone())), "{other}");
        }
    }
}
