//! What this host keeps of a capsule between its starts.

use std::path::Path;

use sandbox::{ContainerSpec, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::manager::Restarts;
use crate::networking::{self, Attachment};
use crate::options::Kata;
use crate::record::{read_json, write_json};

const NAME: &str = "capsule.json";

/// A container of a capsule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// The container.
    pub container: ContainerSpec,
    /// How often its policy has started it again.
    pub restarts: Restarts,
}

/// A capsule on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CapsuleRecord {
    /// Whose it is.
    pub owner: String,
    /// The host name of all its containers.
    pub hostname: String,
    /// Containers that end, one after the other, before the others begin.
    pub init: Vec<Member>,
    /// Its other containers.
    pub containers: Vec<Member>,
    /// Its networks.
    pub attachments: Vec<Attachment>,
    /// How often its policy has started its sandbox again.
    pub restarts: Restarts,
}

impl CapsuleRecord {
    /// The sandbox that its containers share: as large as those that run together, or as the largest of those before them.
    pub fn sandbox_spec(&self, kata: &Kata) -> SandboxSpec {
        let cpus = |member: &Member| member.container.cpus;
        let memory = |member: &Member| member.container.memory_mib;
        SandboxSpec {
            cpus: self.init.iter().map(cpus).fold(self.containers.iter().map(cpus).sum(), f32::max),
            memory_mib: self.init.iter().map(memory).fold(self.containers.iter().map(memory).sum(), u64::max),
            hostname: self.hostname.clone(),
            containers: u8::try_from(self.containers.len().max(1)).unwrap_or(u8::MAX),
            network: networking::guest_network(&self.attachments),
            volumes: Vec::new(),
            ends_with: None,
            template_group: kata.template_scope.group(&self.owner),
            nic_limit: kata.nic_limit(),
            pinning: None,
        }
    }

    /// All its containers.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.init.iter().chain(&self.containers)
    }

    /// The member of this identifier.
    pub fn member_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.init.iter_mut().chain(&mut self.containers).find(|member| member.container.id == id)
    }

    /// Reads the record in a sandbox's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        read_json(folder, NAME)
    }

    /// Writes the record.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(folder, NAME, self)
    }
}
