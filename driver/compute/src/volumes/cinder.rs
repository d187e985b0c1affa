//! Cinder's volumes of a container, or of a capsule's containers: they are attached when it is made, connected to this host
//! whenever its sandbox starts, and detached when it is deleted. The guest has each as a disk of its own; this host mounts
//! none of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cloud::Cinder;
use model::{Container, ContainerUuid, Database, VolumeMapping};
use sandbox::{RateLimit, VOLUMES_MAX, VolumeDisk};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use volume::{Connection, Connector, Origin};

use super::requested::{cinder_id, disk_name};
use crate::error::{Error, Result};
use crate::options::VolumeOptions;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Cinder's volumes on this host.
#[derive(Clone)]
pub struct Volumes {
    database: Database,
    cinder: Cinder,
    connector: Connector,
    hostname: String,
    options: VolumeOptions,
    check_limit: Duration,
    disk_limit: RateLimit,
}

impl Volumes {
    /// Volumes that are attached to the host of this name.
    pub fn new(
        database: Database,
        cinder: Cinder,
        connector: Connector,
        hostname: String,
        options: VolumeOptions,
        check_limit: Duration,
        disk_limit: RateLimit,
    ) -> Self {
        Self { database, cinder, connector, hostname, options, check_limit, disk_limit }
    }

    /// Attaches to this host the volumes that `owner` is given, and makes a file system on those that have never been
    /// written to. What fails is undone with [`Self::detach`].
    pub async fn attach(&self, owner: ContainerUuid, given: &[VolumeMapping]) -> Result<()> {
        let volumes = each_once(given)?;
        if volumes.len() > VOLUMES_MAX {
            let asked = volumes.len();
            return Err(sandbox::Error::Volumes { asked, most: VOLUMES_MAX }.into());
        }
        for (id, volume) in volumes {
            tracing::info!(volume = %id, "attaching");
            self.attach_volume(owner, id, volume).await.map_err(|e| e.of_volume(id))?;
        }
        Ok(())
    }

    async fn attach_volume(&self, owner: ContainerUuid, id: Uuid, volume: &VolumeMapping) -> Result<()> {
        self.wait_until_available(id).await?;
        let attachment = self.cinder.attach(id, owner.0, &self.connector.properties()).await?;
        let info = &attachment.connection_info;
        volume.save_connection(&self.database, &self.hostname, info).await?;
        let path = self.connector.connect(&Connection::parse(info)?).await?;
        volume::ensure_file_system(&path, self.origin(volume)).await?;
        Ok(self.cinder.complete(attachment.id).await?)
    }

    fn origin(&self, volume: &VolumeMapping) -> Origin {
        if volume.auto_remove == Some(true) {
            Origin::Made
        } else {
            Origin::Given { limit: self.check_limit }
        }
    }

    /// A volume is in one sandbox at a time, even if Cinder would attach it more often: its file system is not one that
    /// two kernels can write to.
    async fn wait_until_available(&self, id: Uuid) -> Result<()> {
        let deadline = Instant::now() + self.options.available_timeout();
        loop {
            let found = self
                .cinder
                .get(id)
                .await?
                .ok_or_else(|| Error::invalid("volume", "there is none in Cinder"))?;
            match found.status.as_str() {
                "available" => return Ok(()),
                "in-use" => return Err(Error::Conflict("it is in use".into())),
                status if status.starts_with("error") || Instant::now() > deadline => {
                    return Err(Error::Conflict(format!("it does not become available: it is {status}")));
                }
                _ => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Connects the volumes of a container or a capsule to this host, and gives them as disks.
    pub async fn disks(&self, mappings: &[VolumeMapping]) -> Result<Vec<VolumeDisk>> {
        let mut disks = Vec::new();
        for (id, volume) in each_once(mappings)? {
            let connected = async {
                let connection =
                    connection_of(volume)?.ok_or_else(|| Error::Conflict("it is not attached".into()))?;
                Ok(self.connector.connect(&connection).await?)
            };
            let path = connected.await.map_err(|e: Error| e.of_volume(id))?;
            disks.push(VolumeDisk { name: disk_name(id), path, limit: self.disk_limit });
        }
        Ok(disks)
    }

    /// Removes the rows of what is left of containers' volumes.
    pub async fn forget(&self, containers: &[ContainerUuid]) -> Result<()> {
        for container in containers {
            VolumeMapping::destroy_by_container(&self.database, *container).await?;
        }
        Ok(())
    }

    /// Detaches a volume of a container or a capsule that no longer runs, and deletes it if it was made for that.
    pub async fn detach(&self, owner: ContainerUuid, volume: &OwnedVolume) -> Result<()> {
        tracing::info!(volume = %volume.id, "detaching");
        self.detach_one(owner, volume).await.map_err(|e| e.of_volume(volume.id))
    }

    async fn detach_one(&self, owner: ContainerUuid, volume: &OwnedVolume) -> Result<()> {
        let attachments = self.cinder.attachments(volume.id, owner.0).await?;
        // One that could not be connected has nothing to be disconnected; one that is attached to others by now is theirs.
        if let Some(info) = &volume.connection_info
            && (!attachments.is_empty() || !self.is_in_use(volume.id).await?)
            && let Ok(connection) = parse_connection(info)
        {
            self.disconnect(&connection).await?;
        }
        for attachment in attachments {
            self.cinder.detach(attachment).await?;
        }
        if volume.auto_remove && !self.is_in_use(volume.id).await? {
            self.delete_volume(volume.id).await
        } else {
            Ok(())
        }
    }

    async fn is_in_use(&self, id: Uuid) -> Result<bool> {
        Ok(self.cinder.get(id).await?.is_some_and(|found| found.status == "in-use"))
    }

    async fn disconnect(&self, connection: &Connection) -> Result<()> {
        match self.connector.disconnect(connection).await {
            // Whoever wrote had no answer that it was kept, and nobody is left to write it again.
            Err(e @ volume::Error::Flush { .. }) => {
                tracing::error!(error = %e, "a volume is disconnected although not all was written to it");
                Ok(self.connector.abandon(connection).await?)
            }
            other => Ok(other?),
        }
    }

    async fn delete_volume(&self, id: Uuid) -> Result<()> {
        self.cinder.delete(id).await?;
        let deadline = Instant::now() + self.options.deleted_timeout();
        while let Some(found) = self.cinder.get(id).await? {
            if found.status.starts_with("error") || Instant::now() > deadline {
                return Err(Error::Conflict(format!("Cinder does not delete it: it is {}", found.status)));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// The volumes of these containers.
    pub async fn mappings_of(&self, containers: &[ContainerUuid]) -> Result<Vec<VolumeMapping>> {
        let mut all = Vec::new();
        for container in containers {
            all.extend(VolumeMapping::list_by_container(&self.database, *container).await?);
        }
        Ok(all)
    }
}

/// The container itself, and if it is a capsule its containers.
pub async fn containers_of(database: &Database, owner: &Container) -> Result<Vec<ContainerUuid>> {
    let mut all = vec![owner.uuid];
    if owner.is_capsule() {
        all.extend(owner.members(database).await?.into_iter().map(|member| member.uuid));
    }
    Ok(all)
}

/// Cinder's volumes among these, each once however many containers see it.
fn each_once(mappings: &[VolumeMapping]) -> Result<BTreeMap<Uuid, &VolumeMapping>> {
    let volumes =
        mappings.iter().filter_map(|volume| Some(cinder_id(volume).transpose()?.map(|id| (id, volume))));
    volumes.collect()
}

fn connection_of(volume: &VolumeMapping) -> Result<Option<Connection>> {
    volume.connection_info.as_deref().map(parse_connection).transpose()
}

fn parse_connection(text: &str) -> Result<Connection> {
    let info: Value = serde_json::from_str(text).map_err(|e| {
        Error::invalid("connection_info", format!("Zun's database has what cannot be read: {e}"))
    })?;
    Ok(Connection::parse(&info)?)
}

/// A volume of Cinder's that a container has. Where it is may be secret: it is not for logs.
#[derive(Clone, Serialize, Deserialize)]
pub struct OwnedVolume {
    /// Cinder's identifier.
    pub id: Uuid,
    /// Where this host finds it, once it is attached: JSON as Cinder's drivers write it.
    pub connection_info: Option<String>,
    /// Whether it was made for its container and goes with it.
    pub auto_remove: bool,
}

impl fmt::Debug for OwnedVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedVolume").field("id", &self.id).finish_non_exhaustive()
    }
}

impl OwnedVolume {
    /// Those among the volumes of a sandbox's containers, each once however many of them see it.
    pub fn each_once(mappings: &[VolumeMapping]) -> Result<Vec<Self>> {
        let owned = each_once(mappings)?.into_iter().map(|(id, volume)| Self {
            id,
            connection_info: volume.connection_info.clone(),
            auto_remove: volume.auto_remove.unwrap_or(false),
        });
        Ok(owned.collect())
    }
}
