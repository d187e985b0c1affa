//! The interfaces of containers that are there: they come and go, change their addresses and their security groups, and are
//! brought back to what is recorded after an interruption.

mod follow;
mod groups;
mod mend;
mod plug;

use std::sync::Arc;

use cloud::Neutron;
use model::ContainerUuid;
use sandbox::Sandbox;

use crate::engine::HostEngine;
use crate::error::Result;
use crate::networking;
use crate::options::Kata;
use crate::record::SandboxRecord;

pub use follow::follow_changes;
pub use groups::{GroupChange, change_groups};
pub use mend::{mend, rebind};
pub use plug::{attach, detach};

/// Whom interfaces need.
#[derive(Clone)]
pub struct Interfaces {
    /// The sandboxes of this host.
    pub engine: HostEngine,
    /// Ports.
    pub neutron: Neutron,
    /// Limits of interfaces.
    pub kata: Arc<Kata>,
}

impl Interfaces {
    fn sandbox(&self, uuid: ContainerUuid) -> Sandbox {
        self.engine.sandbox(uuid)
    }

    /// Lets a guest that runs use the interfaces of its record.
    async fn tell_guest(&self, uuid: ContainerUuid, record: &SandboxRecord) -> Result<()> {
        let network = networking::guest_network(&record.attachments);
        Ok(self.sandbox(uuid).set_network(&network, &record.hostname).await?)
    }
}
