//! Cinder's volumes of a container, or of a capsule's containers: they are attached when it is made, connected to this host
//! whenever its sandbox starts, and detached when it is deleted. The guest has each as a disk of its own; this host mounts
//! none of them.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Container, ContainerType, ContainerUuid, VolumeMapping};
use sandbox::{SandboxSpec, VOLUMES_MAX, VolumeDisk};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use volume::Connection;

use super::Manager;
use super::volumes::{cinder_id, disk_name};
use crate::error::{Error, Result};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

impl Manager {
    /// Attaches to this host the volumes that `owner` is given, and makes a file system on those that have never been
    /// written to. What fails is undone with [`Self::detach_volumes`].
    pub(super) async fn attach_volumes(&self, owner: ContainerUuid, given: &[VolumeMapping]) -> Result<()> {
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
        volume.save_connection(&self.database, self.hostname(), info).await?;
        let path = self.connector.connect(&Connection::parse(info)?).await?;
        volume::ensure_file_system(&path).await?;
        Ok(self.cinder.complete(attachment.id).await?)
    }

    /// A volume is in one sandbox at a time, even if Cinder would attach it more often: its file system is not one that
    /// two kernels can write to.
    async fn wait_until_available(&self, id: Uuid) -> Result<()> {
        let deadline = Instant::now() + self.options.volume.available_timeout();
        loop {
            let found =
                self.cinder.get(id).await?.ok_or_else(|| Error::Invalid("there is none in Cinder".into()))?;
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

    /// The same sandbox with the volumes of `owner`, which are connected to this host.
    pub(super) async fn with_volumes(&self, spec: SandboxSpec, owner: &Container) -> Result<SandboxSpec> {
        let mappings = self.mappings_of(owner).await?;
        let mut volumes = Vec::new();
        for (id, volume) in each_once(&mappings)? {
            let connected = async {
                let connection =
                    connection_of(volume)?.ok_or_else(|| Error::Conflict("it is not attached".into()))?;
                Ok(self.connector.connect(&connection).await?)
            };
            let path = connected.await.map_err(|e: Error| e.of_volume(id))?;
            volumes.push(VolumeDisk { name: disk_name(id), path, limit: self.options.kata.disk_limit() });
        }
        Ok(SandboxSpec { volumes, ..spec })
    }

    /// Ends a guest in order that has volumes: what it has not written to them yet would be lost with it.
    pub(super) async fn end_in_order(&self, owner: &Container) -> Result<()> {
        if each_once(&self.mappings_of(owner).await?)?.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.sandbox(owner.uuid).shut_down().await {
            tracing::warn!("its guest did not end in order: {e}");
        }
        Ok(())
    }

    /// Detaches the volumes of a container or a capsule that no longer runs, deletes those that were made for it, and
    /// forgets them all.
    pub(super) async fn detach_volumes(&self, owner: &Container) -> Result<()> {
        let mappings = self.mappings_of(owner).await?;
        for (id, volume) in each_once(&mappings)? {
            tracing::info!(volume = %id, "detaching");
            self.detach_volume(owner.uuid, id, volume).await.map_err(|e| e.of_volume(id))?;
        }
        for container in self.containers_of(owner).await? {
            VolumeMapping::destroy_by_container(&self.database, container).await?;
        }
        Ok(())
    }

    async fn detach_volume(&self, owner: ContainerUuid, id: Uuid, volume: &VolumeMapping) -> Result<()> {
        // One that could not be connected has nothing to be disconnected.
        if let Ok(Some(connection)) = connection_of(volume) {
            self.disconnect(&connection).await?;
        }
        for attachment in self.cinder.attachments(id, owner.0).await? {
            self.cinder.detach(attachment).await?;
        }
        if volume.auto_remove.unwrap_or(false) { self.delete_volume(id).await } else { Ok(()) }
    }

    async fn disconnect(&self, connection: &Connection) -> Result<()> {
        match self.connector.disconnect(connection).await {
            // Whoever wrote had no answer that it was kept, and nobody is left to write it again.
            Err(e @ volume::Error::Flush { .. }) => {
                tracing::error!("{e}");
                Ok(self.connector.abandon(connection).await?)
            }
            other => Ok(other?),
        }
    }

    async fn delete_volume(&self, id: Uuid) -> Result<()> {
        self.cinder.delete(id).await?;
        let deadline = Instant::now() + self.options.volume.deleted_timeout();
        while let Some(found) = self.cinder.get(id).await? {
            if found.status.starts_with("error") || Instant::now() > deadline {
                return Err(Error::Conflict(format!("Cinder does not delete it: it is {}", found.status)));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    async fn mappings_of(&self, owner: &Container) -> Result<Vec<VolumeMapping>> {
        let mut all = Vec::new();
        for container in self.containers_of(owner).await? {
            all.extend(VolumeMapping::list_by_container(&self.database, container).await?);
        }
        Ok(all)
    }

    /// The container itself, and if it is a capsule its containers.
    pub(super) async fn containers_of(&self, owner: &Container) -> Result<Vec<ContainerUuid>> {
        let mut all = vec![owner.uuid];
        for kind in [ContainerType::CapsuleInitContainer, ContainerType::CapsuleContainer] {
            let members = owner.list_of_capsule(&self.database, kind).await?;
            all.extend(members.into_iter().map(|member| member.uuid));
        }
        Ok(all)
    }
}

/// Cinder's volumes among these, each once however many containers see it.
fn each_once(mappings: &[VolumeMapping]) -> Result<BTreeMap<Uuid, &VolumeMapping>> {
    let volumes =
        mappings.iter().filter_map(|volume| Some(cinder_id(volume).transpose()?.map(|id| (id, volume))));
    volumes.collect()
}

fn connection_of(volume: &VolumeMapping) -> Result<Option<Connection>> {
    let Some(text) = &volume.connection_info else { return Ok(None) };
    let info: Value = serde_json::from_str(text)
        .map_err(|e| Error::Invalid(format!("its connection in Zun's database cannot be read: {e}")))?;
    Ok(Some(Connection::parse(&info)?))
}
