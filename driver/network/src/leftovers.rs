use std::collections::BTreeSet;

use crate::command::{Error, Result};
use crate::{link, ovs, vif};

/// Removes the devices of all ports that were plugged here, but for those of `ports`, and names the ports. A host that lost its
/// power has lost the links, but Open vSwitch remembers their names.
pub async fn remove_leftovers(ports: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let links = link::made_here().map_err(Error::Links)?;
    let found = links.into_iter().chain(ovs::made_here().await?).map(|(_, port)| port);
    let left: BTreeSet<_> = found.filter(|port| !ports.contains(port)).collect();
    for port in &left {
        vif::unplug(port).await?;
    }
    Ok(left)
}
