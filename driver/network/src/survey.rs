use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::plugged::Plugged;
use crate::{link, ovs};

/// The ports that were plugged on this host. After a loss of power the links are gone, but Open vSwitch still lists their names.
pub async fn plugged() -> Result<Vec<Plugged>> {
    let links = link::made_here().map_err(Error::Links)?;
    Ok(merged(links.into_iter().chain(ovs::made_here().await?)))
}

/// Each port once, with the first owner that is named: what a tap says comes before what Open vSwitch says.
fn merged(all: impl Iterator<Item = Plugged>) -> Vec<Plugged> {
    let mut owners: BTreeMap<String, Option<String>> = BTreeMap::new();
    for Plugged { port, owner } in all {
        let known = owners.entry(port).or_default();
        if known.is_none() {
            *known = owner;
        }
    }
    owners.into_iter().map(|(port, owner)| Plugged { port, owner }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugged(port: &str, owner: Option<&str>) -> Plugged {
        Plugged { port: port.into(), owner: owner.map(str::to_owned) }
    }

    #[test]
    fn a_port_of_several_devices_has_one_owner() {
        // A hybrid port's bridge, its tap, and what Open vSwitch still has of an earlier owner.
        let all =
            [plugged("b", None), plugged("b", Some("now")), plugged("a", None), plugged("b", Some("before"))];
        assert_eq!(merged(all.into_iter()), [plugged("a", None), plugged("b", Some("now"))]);
    }
}
