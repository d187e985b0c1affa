//! Linux bridges: a network's own (`binding:vif_type` `bridge`), and the one between a tap and Open vSwitch, on which a
//! firewall of iptables can see packets (`ovs_hybrid_plug`).

use crate::error::Result;
use crate::names::DeviceNames;
use crate::{link, ovs};

/// Puts a tap on the bridge of its network, which is made if Neutron's agent has not made it yet.
pub async fn add_port(bridge: &str, tap: &str) -> Result<()> {
    link::ensure_bridge(bridge).await?;
    link::put_on_bridge(tap, bridge).await
}

/// Puts a tap on a bridge of its own, and that on the integration bridge.
pub async fn add_hybrid_port(port: &ovs::Port<'_>, names: &DeviceNames, mtu: u16) -> Result<()> {
    link::check_free(&names.hybrid_bridge, port.id)?;
    link::ensure_bridge(&names.hybrid_bridge).await?;
    link::name_owner(&names.hybrid_bridge, port.id).await?;
    link::create_pair(&names.bridge_end, &names.ovs_end, port.id, mtu).await?;
    link::put_on_bridge(&names.bridge_end, &names.hybrid_bridge).await?;
    link::put_on_bridge(&names.tap, &names.hybrid_bridge).await?;
    ovs::add_port(port, &names.ovs_end).await
}
