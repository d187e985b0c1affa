use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::link::Alias;
use crate::{link, ovs};

/// The ports that were plugged on this host, each with the container for which it was, as far as that is known. After a loss of
/// power the links are gone, but Open vSwitch still lists their names.
pub async fn plugged() -> Result<BTreeMap<String, Option<String>>> {
    let mut plugged: BTreeMap<String, Option<String>> = BTreeMap::new();
    // What the alias of a tap says comes before what Open vSwitch says.
    for Alias { port, owner } in
        link::made_here().map_err(Error::Links)?.into_iter().chain(ovs::made_here().await?)
    {
        let known = plugged.entry(port).or_default();
        *known = known.take().or(owner);
    }
    Ok(plugged)
}
