//! Ports of Open vSwitch bridges.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::command::run;
use crate::error::{Error, Result};
use crate::plugged::Plugged;

const PROGRAM: &str = "ovs-vsctl";
/// How long `ovs-vsctl` waits for Open vSwitch.
const TIMEOUT: &str = "--timeout=30";
const DATABASE: &str = "/run/openvswitch/db.sock";
/// The key in `external-ids` that marks the ports made here.
const MADE_HERE: &str = "zun-kata";
/// Neutron's agent drops what is on this VLAN (`DEAD_VLAN_TAG` of `ovs_constants.py`).
const DEAD_VLAN: &str = "tag=4095";

/// A Neutron port on an Open vSwitch bridge.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// Its identifier.
    pub id: &'a str,
    /// The bridge.
    pub bridge: &'a str,
    /// Its hardware address.
    pub mac: &'a str,
    /// The container that has it.
    pub owner: &'a str,
    /// What isolates it until it is wired. Where OVN wires ports, a VLAN tag would be taken for the port's own.
    pub isolation: Isolation,
}

/// What keeps a port from reaching anybody before it is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The dead VLAN, from which Neutron's agent takes it.
    DeadVlan,
    /// OVN, which has flows only for the ports that it has wired.
    ByController,
}

/// Adds a device to the port's bridge and names its Neutron port in `external-ids`
/// (`vif_plug_ovs/ovsdb/ovsdb_lib.py`).
pub async fn add_port(port: &Port<'_>, device: &str) -> Result<()> {
    let id = |key: &str, value: &str| format!("external-ids:{key}={value}");
    let mut arguments = vec![TIMEOUT, "--may-exist", "add-port", port.bridge, device];
    if port.isolation == Isolation::DeadVlan {
        arguments.push(DEAD_VLAN);
    }
    let ids = [
        id("iface-id", port.id),
        id("iface-status", "active"),
        id("attached-mac", &format!("\"{}\"", port.mac)),
        id("vm-uuid", port.owner),
        id(MADE_HERE, "true"),
    ];
    arguments.extend(["--", "set", "Interface", device]);
    arguments.extend(ids.iter().map(String::as_str));
    run(PROGRAM, &arguments).await.map(|_| ())
}

/// Removes devices from their bridges. Idempotent: succeeds for devices on no bridge and on a host without Open vSwitch.
pub async fn delete_ports(devices: &[&str]) -> Result<()> {
    if devices.is_empty() || !Path::new(DATABASE).exists() {
        return Ok(());
    }
    let mut arguments = vec![TIMEOUT];
    for device in devices {
        arguments.extend(["--", "--if-exists", "del-port", device]);
    }
    run(PROGRAM, &arguments).await.map(|_| ())
}

/// The Neutron port of each port made here, and the container that has it.
pub async fn made_here() -> Result<Vec<Plugged>> {
    if !Path::new(DATABASE).exists() {
        return Ok(Vec::new());
    }
    let made_here = format!("external_ids:{MADE_HERE}=true");
    let columns = "--columns=external_ids";
    let listed = run(PROGRAM, &[TIMEOUT, "--format=json", columns, "find", "Interface", &made_here]).await?;
    parse(&listed).map_err(|source| Error::Output { program: PROGRAM, source })
}

/// A table as Open vSwitch prints it (RFC 7047 §5.1): a map is `["map", [[key, value], …]]`.
fn parse(text: &str) -> serde_json::Result<Vec<Plugged>> {
    type Map = (String, Vec<(String, String)>);
    #[derive(Deserialize)]
    struct Table {
        data: Vec<(Map,)>,
    }
    let Table { data } = serde_json::from_str(text)?;
    let plugged = |((_, ids),): (Map,)| {
        let mut ids: HashMap<_, _> = ids.into_iter().collect();
        Some(Plugged { port: ids.remove("iface-id")?, owner: ids.remove("vm-uuid") })
    };
    Ok(data.into_iter().filter_map(plugged).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_open_vswitch_prints_is_understood() {
        let text = r#"{"data":[[["map",[["iface-id","p1"],["vm-uuid","c1"]]]],[["map",[["iface-id","p2"]]]],[["map",[]]]],
            "headings":["external_ids"]}"#;
        let owned = Plugged { port: "p1".into(), owner: Some("c1".into()) };
        assert_eq!(parse(text).unwrap(), [owned, Plugged { port: "p2".into(), owner: None }]);
        assert!(parse("").is_err());
    }
}
