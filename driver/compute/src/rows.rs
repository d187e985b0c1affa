//! Zun's rows as this host's containers need them, behind a seam: tests put a world of their own there.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    ActionQueue, Changes, Container, ContainerType, ContainerUuid, Database, Record, Unfinished,
    VolumeMapping,
};

use crate::error::Result;

/// The binary's name in Zun's tables.
pub const BINARY: &str = "zun-compute";
/// Upstream's default of `[DEFAULT] service_down_time`.
pub const SERVICE_DOWN_TIME: Duration = Duration::from_secs(180);
/// Kinds of rows that have a sandbox.
pub const OWNERS: [ContainerType; 2] = [ContainerType::Container, ContainerType::Capsule];

/// The rows of this host's containers and capsules.
pub trait Rows: Clone + Send + Sync + 'static {
    /// The row of a container or a capsule, if there is one.
    fn find(&self, uuid: ContainerUuid) -> impl Future<Output = Result<Option<Container>>> + Send;
    /// All of this host.
    fn list(&self) -> impl Future<Output = Result<Vec<Container>>> + Send;
    /// All of the host of another name.
    fn list_on(&self, host: &str) -> impl Future<Output = Result<Vec<Container>>> + Send;
    /// Actions of these that have not come to their end, in their order.
    fn unfinished(&self, uuids: &[ContainerUuid]) -> impl Future<Output = Result<Vec<Unfinished>>> + Send;
    /// On which host each of these is; one that has no row is not in the answer.
    fn hosts_of(
        &self,
        uuids: &[ContainerUuid],
    ) -> impl Future<Output = Result<BTreeMap<ContainerUuid, Option<String>>>> + Send;
    /// Whether a live service of this kind has this name.
    fn is_served(&self, host: &str) -> impl Future<Output = Result<bool>> + Send;
    /// A capsule's containers, those that end first before the others.
    fn members(&self, capsule: &Container) -> impl Future<Output = Result<Vec<Container>>> + Send;
    /// Writes changes to a row, and to `container`.
    fn save(&self, container: &mut Container, changes: Changes) -> impl Future<Output = Result<()>> + Send;
    /// Removes a row.
    fn destroy(&self, container: &Container) -> impl Future<Output = Result<()>> + Send;
    /// The volumes of a container.
    fn volumes(&self, container: ContainerUuid) -> impl Future<Output = Result<Vec<VolumeMapping>>> + Send;
    /// Takes a line of an action's history, and does not wait.
    fn record(&self, record: Record);
}

/// Zun's database.
#[derive(Debug, Clone)]
pub struct ZunRows {
    database: Database,
    host: String,
    actions: ActionQueue,
}

impl ZunRows {
    /// The rows of `host`.
    pub fn new(database: Database, host: String, actions: ActionQueue) -> Self {
        Self { database, host, actions }
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

impl Rows for ZunRows {
    async fn find(&self, uuid: ContainerUuid) -> Result<Option<Container>> {
        Ok(Container::find(&self.database, &OWNERS, uuid).await?)
    }

    async fn list(&self) -> Result<Vec<Container>> {
        self.list_on(&self.host).await
    }

    async fn list_on(&self, host: &str) -> Result<Vec<Container>> {
        Ok(Container::list_by_host(&self.database, &OWNERS, host).await?)
    }

    async fn unfinished(&self, uuids: &[ContainerUuid]) -> Result<Vec<Unfinished>> {
        Ok(Unfinished::list(&self.database, uuids).await?)
    }

    async fn hosts_of(&self, uuids: &[ContainerUuid]) -> Result<BTreeMap<ContainerUuid, Option<String>>> {
        Ok(Container::hosts_of(&self.database, uuids).await?)
    }

    async fn is_served(&self, host: &str) -> Result<bool> {
        Ok(model::is_up(&self.database, host, BINARY, SERVICE_DOWN_TIME).await?)
    }

    async fn members(&self, capsule: &Container) -> Result<Vec<Container>> {
        Ok(capsule.members(&self.database).await?)
    }

    async fn save(&self, container: &mut Container, changes: Changes) -> Result<()> {
        Ok(container.save(&self.database, changes).await?)
    }

    async fn destroy(&self, container: &Container) -> Result<()> {
        Ok(container.destroy(&self.database).await?)
    }

    async fn volumes(&self, container: ContainerUuid) -> Result<Vec<VolumeMapping>> {
        Ok(VolumeMapping::list_by_container(&self.database, container).await?)
    }

    fn record(&self, record: Record) {
        self.actions.record(record);
    }
}
