//! `network_create` and `network_delete`: Neutron networks that Zun's API shows as networks of its own. Docker needs one of
//! its own for each; here the row is all there is.

use cloud::Neutron;
use model::ZunNetwork;
use oslo::RequestContext;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::rows::{Rows, ZunRows};

/// `network_create`.
pub async fn create(
    neutron: &Neutron,
    rows: &ZunRows,
    host: &str,
    context: &RequestContext,
    id: &str,
) -> Result<Value> {
    let network = match neutron.network(id).await {
        Err(e) if e.is_not_found() => return Err(Error::NoNetwork(id.to_owned())),
        found => found?,
    };
    if network.subnets.is_empty() {
        return Err(Error::Network(format!("The Neutron network {id} has no subnet")));
    }
    let owner = (context.project_id.as_deref(), context.user_id.as_deref());
    let row = ZunNetwork::ensure(rows.database(), id, host, owner).await?;
    row.to_wire().map_err(Error::from_json)
}

/// `network_delete`.
pub async fn delete(rows: &ZunRows, network: ZunNetwork) -> Result<()> {
    let id = network.neutron_net_id.as_deref().unwrap_or_default();
    let containers = rows.list().await?;
    let user = containers
        .iter()
        .find(|container| container.addresses.as_ref().is_some_and(|all| all.0.contains_key(id)));
    match user {
        Some(user) => Err(Error::Conflict(format!("network {id} is in use by container {}", user.uuid))),
        None => Ok(network.destroy(rows.database()).await?),
    }
}
