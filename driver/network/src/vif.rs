use serde_json::{Map, Value};

use crate::command::{Error, Result};
use crate::ovs;
use crate::tap::TapName;

const DEFAULT_BRIDGE: &str = "br-int";

/// A port as plugging needs to know it.
#[derive(Debug, Clone)]
pub struct Vif {
    /// The Neutron port.
    pub port_id: String,
    /// Whose it is: the container.
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

impl Vif {
    /// The name of the port's tap.
    pub fn tap(&self) -> TapName {
        TapName::of_port(&self.port_id)
    }

    /// Says whether this host can plug the port, before anything is made.
    pub fn validate(&self) -> Result<()> {
        self.bridge().map(|_| ())
    }

    /// Makes the tap and puts it on its bridge. If that fails, nothing is left.
    pub async fn plug(&self) -> Result<TapName> {
        let bridge = self.bridge()?;
        let tap = self.tap();
        tap.create(self.mtu).await?;
        if let Err(e) = ovs::add_port(self, bridge, &tap).await {
            Self::unplug(&tap).await.unwrap_or_else(|e| tracing::warn!("{tap} is left behind: {e}"));
            return Err(e);
        }
        Ok(tap)
    }

    /// Takes a tap off its bridge and removes it.
    pub async fn unplug(tap: &TapName) -> Result<()> {
        let off = ovs::delete_port(tap).await;
        tap.remove().await?;
        off
    }

    fn bridge(&self) -> Result<&str> {
        let port = || self.port_id.clone();
        match self.vif_type.as_str() {
            "ovs" => {}
            "binding_failed" | "unbound" | "" => {
                return Err(Error::BindingFailed { port: port(), host: self.host.clone() });
            }
            other => return Err(Error::VifType { port: port(), vif_type: other.to_owned() }),
        }
        if self.details.get("ovs_hybrid_plug") == Some(&Value::Bool(true)) {
            let reason = "the agent's iptables_hybrid firewall is not supported, openvswitch is".to_owned();
            return Err(Error::Details { port: port(), reason });
        }
        Ok(self.details.get("bridge_name").and_then(Value::as_str).unwrap_or(DEFAULT_BRIDGE))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vif(vif_type: &str, details: Value) -> Vif {
        Vif {
            port_id: "d8c83230-3c87-41a2-84c8-7d9c36eb3277".into(),
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
        assert_eq!(vif("ovs", json!({})).bridge().unwrap(), "br-int");
        assert_eq!(vif("ovs", json!({ "bridge_name": "br-x" })).bridge().unwrap(), "br-x");
    }

    #[test]
    fn other_bindings_are_named() {
        let text = |vif: &Vif| vif.bridge().unwrap_err().to_string();
        assert!(text(&vif("binding_failed", json!({}))).contains("no network agent of host compute1"));
        assert!(text(&vif("vhostuser", json!({}))).contains("\"vhostuser\" is not supported"));
        assert!(text(&vif("ovs", json!({ "ovs_hybrid_plug": true }))).contains("iptables_hybrid"));
    }
}
