use std::net::IpAddr;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::keystone::Keystone;
use crate::rest::{ClientOptions, NOTHING, Rest};

/// Identifiers in one request. Each takes 40 bytes, and uWSGI by default refuses requests whose head has more than 4 KiB.
const IDS_AT_ONCE: usize = 50;

/// Neutron, as the service's user.
#[derive(Debug, Clone)]
pub struct Neutron(Rest);

/// A port to make.
#[derive(Debug, Clone, Serialize)]
pub struct NewPort {
    /// Its network.
    pub network_id: String,
    /// The project that owns it.
    pub tenant_id: String,
    /// The container.
    pub device_id: String,
    /// The kind of its device, such as `compute:nova`.
    pub device_owner: String,
    /// The host to which it is bound.
    #[serde(rename = "binding:host_id")]
    pub host: String,
    /// Its name.
    pub name: String,
    /// An address that it must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_ips: Option<Vec<Value>>,
    /// Security groups in place of the project's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FixedIp {
    /// Its subnet.
    pub subnet_id: String,
    /// The address.
    pub ip_address: IpAddr,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Port {
    /// Its identifier.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The project that owns it.
    #[serde(default)]
    pub project_id: String,
    /// Its network.
    pub network_id: String,
    /// Its hardware address.
    pub mac_address: String,
    /// `ACTIVE` once it is wired.
    pub status: String,
    /// Its addresses.
    pub fixed_ips: Vec<FixedIp>,
    /// The container or server that has it.
    #[serde(default)]
    pub device_id: String,
    /// The security groups whose rules it has.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// How it is bound.
    #[serde(rename = "binding:vif_type", default)]
    pub vif_type: String,
    /// Details of the binding.
    #[serde(rename = "binding:vif_details", default)]
    pub vif_details: Map<String, Value>,
    /// The host to which it is bound; empty if it is not bound.
    #[serde(rename = "binding:host_id", default)]
    pub host: String,
    /// Its names in Neutron's name service, where that is enabled.
    #[serde(default)]
    pub dns_assignment: Vec<DnsAssignment>,
}

/// A name of a port's address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DnsAssignment {
    /// The host's name.
    pub hostname: String,
    /// The same with its domain.
    pub fqdn: String,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Network {
    /// Its identifier.
    pub id: String,
    /// Largest packet in bytes.
    #[serde(default)]
    pub mtu: u16,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// The domain of its ports' names, where Neutron's name service is enabled.
    #[serde(default)]
    pub dns_domain: String,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subnet {
    /// Its identifier.
    pub id: String,
    /// Its prefix.
    pub cidr: String,
    /// Its gateway.
    pub gateway_ip: Option<IpAddr>,
    /// Whether DHCP serves it.
    #[serde(default)]
    pub enable_dhcp: bool,
    /// Name servers.
    #[serde(default)]
    pub dns_nameservers: Vec<IpAddr>,
    /// Further routes.
    #[serde(default)]
    pub host_routes: Vec<HostRoute>,
}

/// A route that a subnet gives its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HostRoute {
    /// A prefix.
    pub destination: String,
    /// The next hop.
    pub nexthop: IpAddr,
}

#[derive(Deserialize)]
struct Identified {
    id: String,
    #[serde(default)]
    project_id: String,
}

/// Whose ports and security groups are looked for. Anybody may give his own the name and the device of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned<'a> {
    /// A project's.
    By(&'a str),
    /// Everybody's.
    ByAnybody,
}

impl Owned<'_> {
    fn has(self, project: &str) -> bool {
        match self {
            Self::By(owner) => owner == project,
            Self::ByAnybody => true,
        }
    }
}

impl Neutron {
    /// A client on the session.
    pub fn new(keystone: Keystone, options: ClientOptions) -> Self {
        Self(Rest::new(keystone, "Neutron", &["network"], options, None))
    }

    /// Makes a port.
    pub async fn create_port(&self, port: &NewPort) -> Result<Port> {
        self.0
            .call(Method::POST, "/v2.0/ports", Some(&json!({ "port": port })))
            .await
            .map(|Reply { port }| port)
    }

    /// Binds an existing port to a container on a host.
    pub async fn bind_port(&self, id: &str, device_id: &str, device_owner: &str, host: &str) -> Result<Port> {
        let fields = json!({ "device_id": device_id, "device_owner": device_owner, "binding:host_id": host });
        self.update_port(id, fields).await
    }

    /// Takes an existing port from its container.
    pub async fn unbind_port(&self, id: &str) -> Result<Port> {
        let fields = json!({ "device_id": "", "device_owner": "", "binding:host_id": null });
        self.update_port(id, fields).await
    }

    /// Gives a port these security groups and no others.
    pub async fn set_security_groups(&self, id: &str, groups: &[String]) -> Result<Port> {
        self.update_port(id, json!({ "security_groups": groups })).await
    }

    /// Makes a security group, and gives its identifier.
    pub async fn create_security_group(&self, name: &str, project: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Made {
            security_group: Identified,
        }
        let body = json!({ "security_group": { "name": name, "tenant_id": project } });
        let Made { security_group } = self.0.call(Method::POST, "/v2.0/security-groups", Some(&body)).await?;
        Ok(security_group.id)
    }

    /// Adds a rule to a security group that lets everybody reach a port over IPv4.
    pub async fn let_in(&self, group: &str, project: &str, protocol: &str, port: u16) -> Result<()> {
        let body = json!({ "security_group_rule": {
            "security_group_id": group,
            "tenant_id": project,
            "direction": "ingress",
            "protocol": protocol,
            "port_range_min": port,
            "port_range_max": port,
            "remote_ip_prefix": "0.0.0.0/0",
        } });
        self.0.call::<Value>(Method::POST, "/v2.0/security-group-rules", Some(&body)).await.map(|_| ())
    }

    /// The identifiers of the security groups of this name.
    pub async fn security_groups_named(&self, name: &str, owned: Owned<'_>) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct List {
            security_groups: Vec<Identified>,
        }
        let path = format!("/v2.0/security-groups?name={name}");
        let List { security_groups } = self.0.call(Method::GET, &path, NOTHING).await?;
        let owned = security_groups.into_iter().filter(|group| owned.has(&group.project_id));
        Ok(owned.map(|group| group.id).collect())
    }

    /// Removes a security group. Idempotent: succeeds if it is absent.
    pub async fn delete_security_group(&self, id: &str) -> Result<()> {
        match self.0.call::<Value>(Method::DELETE, &format!("/v2.0/security-groups/{id}"), NOTHING).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn update_port(&self, id: &str, fields: Value) -> Result<Port> {
        let body = json!({ "port": fields });
        self.0.call(Method::PUT, &format!("/v2.0/ports/{id}"), Some(&body)).await.map(|Reply { port }| port)
    }

    /// Reads a port.
    pub async fn port(&self, id: &str) -> Result<Port> {
        self.0.call(Method::GET, &format!("/v2.0/ports/{id}"), NOTHING).await.map(|Reply { port }| port)
    }

    /// Removes a port. Idempotent: succeeds if it is absent.
    pub async fn delete_port(&self, id: &str) -> Result<()> {
        match self.0.call::<Value>(Method::DELETE, &format!("/v2.0/ports/{id}"), NOTHING).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// The ports with these identifiers that exist, in any order. One request asks for many of them.
    pub async fn ports_by_ids(&self, ids: &[String]) -> Result<Vec<Port>> {
        let mut found = Vec::new();
        for ids in ids.chunks(IDS_AT_ONCE) {
            found.extend(self.ports(&by_ids(ids)).await?);
        }
        Ok(found)
    }

    /// The ports of a container.
    pub async fn ports_of(&self, device_id: &str, owned: Owned<'_>) -> Result<Vec<Port>> {
        let ports = self.ports(&format!("device_id={device_id}")).await?;
        Ok(ports.into_iter().filter(|port| owned.has(&port.project_id)).collect())
    }

    /// All ports that are bound to a host.
    pub async fn ports_on(&self, host: &str) -> Result<Vec<Port>> {
        self.ports(&format!("binding:host_id={host}")).await
    }

    /// The ports of a network's DHCP servers.
    pub async fn dhcp_ports(&self, network: &str) -> Result<Vec<Port>> {
        self.ports(&format!("network_id={network}&device_owner=network:dhcp")).await
    }

    async fn ports(&self, filter: &str) -> Result<Vec<Port>> {
        #[derive(Deserialize)]
        struct List {
            ports: Vec<Port>,
        }
        self.0.call(Method::GET, &format!("/v2.0/ports?{filter}"), NOTHING).await.map(|List { ports }| ports)
    }

    /// Kinds of the agents that are alive on a host.
    pub async fn live_agents(&self, host: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct List {
            agents: Vec<Agent>,
        }
        #[derive(Deserialize)]
        struct Agent {
            agent_type: String,
            alive: bool,
        }
        let path = format!("/v2.0/agents?host={host}");
        let List { agents } = self.0.call(Method::GET, &path, NOTHING).await?;
        Ok(agents.into_iter().filter(|agent| agent.alive).map(|agent| agent.agent_type).collect())
    }

    /// Reads a network.
    pub async fn network(&self, id: &str) -> Result<Network> {
        #[derive(Deserialize)]
        struct Reply {
            network: Network,
        }
        self.0
            .call(Method::GET, &format!("/v2.0/networks/{id}"), NOTHING)
            .await
            .map(|Reply { network }| network)
    }

    /// Reads a subnet.
    pub async fn subnet(&self, id: &str) -> Result<Subnet> {
        #[derive(Deserialize)]
        struct Reply {
            subnet: Subnet,
        }
        self.0.call(Method::GET, &format!("/v2.0/subnets/{id}"), NOTHING).await.map(|Reply { subnet }| subnet)
    }
}

#[derive(Deserialize)]
struct Reply {
    port: Port,
}

fn by_ids(ids: &[String]) -> String {
    ids.iter().map(|id| format!("id={id}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_ports_are_asked_for_at_once() {
        assert_eq!(by_ids(&["a".to_owned(), "b".to_owned()]), "id=a&id=b");
    }
}
