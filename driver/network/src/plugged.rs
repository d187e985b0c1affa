use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::{link, ovs};

/// The ports that were plugged on this host. After a loss of power the links are gone, but Open vSwitch still lists their names.
pub async fn plugged() -> Result<BTreeSet<String>> {
    let links = link::made_here().map_err(Error::Links)?;
    Ok(links.into_iter().chain(ovs::made_here().await?).map(|(_, port)| port).collect())
}
