//! Zun's compute manager (`zun/compute/manager.py`): what is done for each RPC method.

mod archives;
mod capsules;
mod cinder;
mod commit;
mod create;
mod dispatch;
mod exec;
mod health;
mod images;
mod inspect;
mod lifecycle;
mod locks;
mod networks;
mod pause;
mod ports;
mod pull;
mod rebuild;
mod restart;
mod security_groups;
mod status;
mod steps;
mod sync;
mod top;
mod update;
mod usage;
mod volumes;
mod zun_networks;

use std::sync::Arc;

use cloud::{Cinder, Glance, Neutron, Placement};
use image::Store;
use model::{Changes, Container, ContainerUuid, Database};
use sandbox::{Host, Sandbox};
use volume::Connector;

use crate::console::Sessions;
use crate::error::Result;
use crate::networking::{self, Attachment};
use crate::options::Options;
use crate::pinning::Pins;
use crate::record::Record;
use crate::sandbox_record::SandboxRecord;
use crate::services::Services;
use health::HealthBook;
use locks::Locks;
pub use restart::Restarts;

/// The span of work on a container that no request asks for: what is logged in it carries the identifier.
pub fn background_span(uuid: ContainerUuid) -> tracing::Span {
    tracing::info_span!(parent: None, "container", %uuid)
}

/// The compute manager of this host.
pub struct Manager {
    options: Arc<Options>,
    database: Database,
    host: Host,
    images: Store,
    neutron: Neutron,
    placement: Placement,
    glance: Glance,
    cinder: Cinder,
    connector: Connector,
    sessions: Arc<Sessions>,
    locks: Locks,
    health: HealthBook,
    pins: Pins,
    claims: tokio::sync::Mutex<()>,
}

impl Manager {
    /// A manager of `host`.
    pub fn new(
        options: Arc<Options>,
        database: Database,
        host: Host,
        images: Store,
        services: Services,
        connector: Connector,
        sessions: Arc<Sessions>,
    ) -> Self {
        let Services { neutron, placement, glance, cinder } = services;
        Self {
            options,
            database,
            host,
            images,
            neutron,
            placement,
            glance,
            cinder,
            connector,
            sessions,
            locks: Locks::default(),
            health: HealthBook::default(),
            pins: Pins::default(),
            claims: tokio::sync::Mutex::default(),
        }
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Zun's database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Placement.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// CPUs that containers have to themselves.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Finds in the records which CPUs are whose.
    pub fn load_pins(&self) -> Result<()> {
        for id in self.host.list()? {
            let Ok(record) = Record::read(self.host.sandbox(&id).path()) else { continue };
            if let (Some(pinning), Ok(uuid)) = (record.pinning, id.parse()) {
                self.pins.insert(uuid, pinning, record.container.memory_mib);
            }
        }
        Ok(())
    }

    /// The sandboxes of this host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn hostname(&self) -> &str {
        &self.options.default.host
    }

    fn sandbox(&self, uuid: ContainerUuid) -> Sandbox {
        self.host.sandbox(&uuid.to_string())
    }

    fn record(&self, uuid: ContainerUuid) -> Result<Record> {
        Record::read(self.sandbox(uuid).path())
    }

    /// The networks of a container or a capsule, as far as they are recorded.
    fn attachments(&self, uuid: ContainerUuid) -> Vec<Attachment> {
        let record = SandboxRecord::read(self.sandbox(uuid).path());
        record.map(|mut record| std::mem::take(record.attachments_mut())).unwrap_or_default()
    }

    /// Removes all that this host has of a container: shim, taps, files, and its ports.
    pub async fn clean_up(&self, uuid: ContainerUuid) -> Result<()> {
        let sandbox = self.sandbox(uuid);
        sandbox.kill().await?;
        let attachments = self.attachments(uuid);
        networking::unplug(&attachments).await;
        networking::detach(&self.neutron, &attachments).await;
        // What was interrupted, or whose record is lost: Neutron knows whose its ports are.
        let owner = uuid.to_string();
        let strays = networking::strays(&self.neutron, &owner, &[]).await?;
        networking::reclaim(&self.neutron, &owner, &strays).await?;
        sandbox.delete().await?;
        self.pins.remove(uuid);
        Ok(())
    }

    /// Takes away what a container that has ended holds: its taps. Its disk, its ports and its log stay.
    pub async fn release(&self, uuid: ContainerUuid) -> Result<()> {
        self.sandbox(uuid).shut_down().await?;
        networking::unplug(&self.attachments(uuid)).await;
        Ok(())
    }

    async fn save(&self, container: &mut Container, changes: Changes) -> Result<()> {
        Ok(container.save(&self.database, changes).await?)
    }
}
