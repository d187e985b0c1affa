//! `network_create` and `network_delete`: Neutron networks that Zun's API shows as networks of its own. Docker needs one of
//! its own for each; here the row is all there is.

use model::{Container, ContainerType, ZunNetwork};
use oslo::RequestContext;
use serde_json::Value;

use super::Manager;
use super::dispatch::Arguments;
use crate::error::{Error, Result};

impl Manager {
    pub(super) async fn network_create(
        &self,
        context: &RequestContext,
        arguments: &Arguments,
    ) -> Result<Value> {
        let id: String = arguments.get("neutron_net_id")?;
        let network = self.neutron.network(&id).await?;
        if network.subnets.is_empty() {
            return Err(Error::Network(format!("The Neutron network {id} has no subnet")));
        }
        let owner = (context.project_id.as_deref(), context.user_id.as_deref());
        let row = ZunNetwork::ensure(&self.database, &id, self.hostname(), owner).await?;
        row.to_wire().map_err(|e| Error::Invalid(e.to_string()))
    }

    pub(super) async fn network_delete(&self, arguments: &Arguments) -> Result<()> {
        let network = ZunNetwork::from_wire(arguments.raw("network"))?;
        let id = network.neutron_net_id.as_deref().unwrap_or_default();
        let kinds = [ContainerType::Container, ContainerType::Capsule];
        let containers = Container::list_by_host(&self.database, &kinds, self.hostname()).await?;
        let user = containers
            .iter()
            .find(|container| container.addresses.as_ref().is_some_and(|all| all.0.contains_key(id)));
        match user {
            Some(user) => Err(Error::Conflict(format!("network {id} is in use by container {}", user.uuid))),
            None => Ok(network.destroy(&self.database).await?),
        }
    }
}
