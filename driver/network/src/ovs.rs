//! Ports of Open vSwitch bridges.

use crate::command::{Result, run};
use crate::tap::TapName;
use crate::vif::Vif;

const TIMEOUT: &str = "--timeout=30";

/// Adds a tap to the port's bridge and tells Neutron's agent, through `external-ids`, whose it is.
pub async fn add_port(vif: &Vif, bridge: &str, tap: &TapName) -> Result<()> {
    let id = |key: &str, value: &str| format!("external-ids:{key}={value}");
    run(
        "ovs-vsctl",
        &[
            TIMEOUT,
            "--may-exist",
            "add-port",
            bridge,
            tap.as_str(),
            "--",
            "set",
            "Interface",
            tap.as_str(),
            &id("iface-id", &vif.port_id),
            &id("iface-status", "active"),
            &id("attached-mac", &format!("\"{}\"", vif.mac)),
            &id("vm-uuid", &vif.owner),
        ],
    )
    .await
    .map(|_| ())
}

/// Removes a tap from its bridge, if it is on one.
pub async fn delete_port(tap: &TapName) -> Result<()> {
    run("ovs-vsctl", &[TIMEOUT, "--if-exists", "del-port", tap.as_str()]).await.map(|_| ())
}
