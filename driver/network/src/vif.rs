use std::sync::LazyLock;

use serde_json::{Map, Value};
use shares::{Place, Shares};

use crate::error::{Error, Result};
use crate::link;
use crate::linux_bridge;
use crate::names::{DeviceNames, bridge_of_network};
use crate::ovs::{self, Isolation};
use crate::plugged::Plugged;

/// The integration bridge of a port that does not name one.
const INTEGRATION_BRIDGE: &str = "br-int";
/// `IFNAMSIZ` without the closing zero.
const NAME_MAX: usize = 15;

/// A port as plugging needs to know it.
#[derive(Debug, Clone)]
pub struct Vif {
    /// The Neutron port.
    pub port_id: String,
    /// Its network.
    pub network_id: String,
    /// The container that has it.
    pub owner: String,
    /// The host to which it is bound.
    pub host: String,
    /// The guest's hardware address.
    pub mac: String,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// `binding:vif_type`.
    pub vif_type: String,
    /// `binding:vif_details`.
    pub details: Map<String, Value>,
}

/// What a tap is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TapTarget {
    /// An Open vSwitch bridge, which Neutron's agent or OVN wires.
    OpenVswitch(String, Isolation),
    /// The same, with a Linux bridge in between for a firewall of iptables.
    Hybrid(String, Isolation),
    /// The Linux bridge of its network.
    LinuxBridge(String),
    /// No bridge: the host routes to it, as its agent arranges.
    Host,
}

impl Vif {
    /// Fails if this host cannot plug the port. Makes nothing.
    pub fn validate(&self) -> Result<()> {
        self.tap_target().map(|_| ())
    }

    /// Makes a tap with this number of queue pairs and connects it to its target. Leaves nothing behind on failure.
    pub async fn plug(&self, queue_pairs: u8) -> Result<()> {
        let target = self.tap_target()?;
        let _devices = devices(&self.port_id).await;
        let names = DeviceNames::of_port(&self.port_id);
        let plugged = self.plug_into(&target, &names, queue_pairs).await;
        if plugged.is_err() {
            take_off(&self.port_id).await.unwrap_or_else(
                |e| tracing::warn!(port = self.port_id, error = %e, "devices are left behind"),
            );
        }
        plugged
    }

    async fn plug_into(&self, target: &TapTarget, names: &DeviceNames, queue_pairs: u8) -> Result<()> {
        let plugged = Plugged { port: self.port_id.clone(), owner: Some(self.owner.clone()) };
        link::create_tap(&names.tap, &plugged, self.mtu, queue_pairs).await?;
        match target {
            TapTarget::OpenVswitch(bridge, isolation) => {
                ovs::add_port(&self.ovs_port(bridge, *isolation), &names.tap).await
            }
            TapTarget::Hybrid(bridge, isolation) => {
                linux_bridge::add_hybrid_port(&self.ovs_port(bridge, *isolation), names, self.mtu).await
            }
            TapTarget::LinuxBridge(bridge) => linux_bridge::add_port(bridge, &names.tap).await,
            TapTarget::Host => Ok(()),
        }
    }

    fn ovs_port<'a>(&'a self, bridge: &'a str, isolation: Isolation) -> ovs::Port<'a> {
        ovs::Port { id: &self.port_id, bridge, mac: &self.mac, owner: &self.owner, isolation }
    }

    fn tap_target(&self) -> Result<TapTarget> {
        match self.vif_type.as_str() {
            "ovs" => {
                let bridge = self.bridge_or(INTEGRATION_BRIDGE.to_owned())?;
                let is_hybrid = self.details.get("ovs_hybrid_plug") == Some(&Value::Bool(true));
                let target = if is_hybrid { TapTarget::Hybrid } else { TapTarget::OpenVswitch };
                Ok(target(bridge, self.isolation()))
            }
            "bridge" => Ok(TapTarget::LinuxBridge(self.bridge_or(bridge_of_network(&self.network_id))?)),
            "tap" => Ok(TapTarget::Host),
            "binding_failed" | "unbound" | "" => {
                Err(Error::BindingFailed { port: self.port_id.clone(), host: self.host.clone() })
            }
            other => Err(Error::VifType { port: self.port_id.clone(), vif_type: other.to_owned() }),
        }
    }

    /// Neutron's Open vSwitch agent knows the dead VLAN; ML2 names the drivers that have bound the port.
    fn isolation(&self) -> Isolation {
        let drivers = self.details.get("bound_drivers").and_then(Value::as_object);
        let has_agent = drivers.is_some_and(|drivers| drivers.values().any(|name| name == "openvswitch"));
        if has_agent { Isolation::DeadVlan } else { Isolation::ByController }
    }

    fn bridge_or(&self, otherwise: String) -> Result<String> {
        let Some(name) = self.details.get("bridge_name").and_then(Value::as_str) else {
            return Ok(otherwise);
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NAME_MAX || name.starts_with('-') || !name.chars().all(is_name) {
            let reason = format!("{name:?} is no name of a bridge");
            return Err(Error::Details { port: self.port_id.clone(), reason });
        }
        Ok(name.to_owned())
    }
}

/// Whether a port has a tap that may be another container's than `owner`'s. That of an earlier release may be anybody's.
pub fn may_be_anothers(port_id: &str, owner: &str) -> bool {
    let tap = link::plugged_by(&DeviceNames::of_port(port_id).tap).filter(|tap| tap.port == port_id);
    tap.is_some_and(|tap| tap.owner.as_deref() != Some(owner))
}

/// What has become of a port that was to be unplugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplugged {
    /// It has no device any more.
    Removed,
    /// Another container has it by now, and keeps its devices.
    AnothersNow,
}

/// Removes a port's devices and takes them off their bridge, of whichever kind. Leaves a tap alone whose alias names another port
/// or another container. `owner` is `None` for a tap of an earlier release, which named none. Idempotent: succeeds if nothing is
/// plugged.
pub async fn unplug(port_id: &str, owner: Option<&str>) -> Result<Unplugged> {
    let _devices = devices(port_id).await;
    let now = link::plugged_by(&DeviceNames::of_port(port_id).tap).and_then(|tap| tap.owner);
    if now.is_some_and(|now| Some(now.as_str()) != owner) {
        return Ok(Unplugged::AnothersNow);
    }
    take_off(port_id).await.map(|()| Unplugged::Removed)
}

/// The right to work on a port's devices: each of them takes several steps to make, or to remove.
async fn devices(port_id: &str) -> Place {
    static PORTS: LazyLock<Shares> = LazyLock::new(Shares::one_each);
    PORTS.place(port_id).await
}

async fn take_off(port_id: &str) -> Result<()> {
    let DeviceNames { tap, hybrid_bridge, bridge_end, ovs_end } = DeviceNames::of_port(port_id);
    if link::check_free(&tap, port_id).is_err() {
        return Ok(());
    }
    let off = ovs::delete_ports(&[&tap, &ovs_end]).await;
    for device in [&tap, &bridge_end, &hybrid_bridge] {
        link::remove(device).await?;
    }
    off
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vif(vif_type: &str, details: Value) -> Vif {
        Vif {
            port_id: "d8c83230-3c87-41a2-84c8-7d9c36eb3277".into(),
            network_id: "0a1b2c3d-4e5f-6789-abcd-ef0123456789".into(),
            owner: "c".into(),
            host: "compute1".into(),
            mac: "fa:16:3e:00:00:01".into(),
            mtu: 1450,
            vif_type: vif_type.into(),
            details: details.as_object().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn the_binding_says_where() {
        let target = |vif_type, details| vif(vif_type, details).tap_target().unwrap();
        let agents = json!({ "bound_drivers": { "0": "openvswitch" } });
        assert_eq!(target("ovs", agents), TapTarget::OpenVswitch("br-int".into(), Isolation::DeadVlan));
        let ovn = json!({ "bridge_name": "br-x", "bound_drivers": { "0": "ovn" } });
        assert_eq!(target("ovs", ovn), TapTarget::OpenVswitch("br-x".into(), Isolation::ByController));
        let hybrid = json!({ "ovs_hybrid_plug": true });
        assert_eq!(target("ovs", hybrid), TapTarget::Hybrid("br-int".into(), Isolation::ByController));
        assert_eq!(target("bridge", json!({})), TapTarget::LinuxBridge("brq0a1b2c3d-4e".into()));
        assert_eq!(target("bridge", json!({ "bridge_name": "br0" })), TapTarget::LinuxBridge("br0".into()));
        assert_eq!(target("tap", json!({})), TapTarget::Host);
    }

    #[test]
    fn other_bindings_are_named() {
        let text = |vif: &Vif| vif.tap_target().unwrap_err().to_string();
        assert!(text(&vif("binding_failed", json!({}))).contains("no network agent of host compute1"));
        assert!(text(&vif("vhostuser", json!({}))).contains("\"vhostuser\" is not supported"));
        for bad in ["", "--may-exist", "a b", "a/b", "a-name-of-17-bytes"] {
            let error = text(&vif("ovs", json!({ "bridge_name": bad })));
            assert!(error.contains("is no name of a bridge"), "{bad:?}: {error}");
        }
    }
}
