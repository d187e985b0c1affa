//! What this host keeps of a container between its starts: which image, which program, which ports.

use std::path::{Path, PathBuf};

use model::ContainerUuid;
use sandbox::{ContainerSpec, GuestNetwork, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::networking::Attachment;

const NAME: &str = "container.json";

/// A container on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The image's file system.
    pub rootfs: PathBuf,
    /// The container.
    pub container: ContainerSpec,
    /// The signal that asks it to end.
    pub stop_signal: u32,
    /// Its networks.
    pub attachments: Vec<Attachment>,
}

impl Record {
    /// The sandbox that the container needs.
    pub fn sandbox_spec(&self) -> SandboxSpec {
        SandboxSpec {
            cpus: self.container.cpus,
            memory_mib: self.container.memory_mib,
            hostname: self.container.hostname.clone(),
            rootfs: Some(self.rootfs.clone()),
            network: GuestNetwork {
                nics: self.attachments.iter().map(|attachment| attachment.nic.clone()).collect(),
                dns: self.attachments.iter().flat_map(|attachment| attachment.dns.clone()).collect(),
            },
            ends_with: Some(self.container.id.clone()),
        }
    }

    /// Reads the record in a sandbox's folder.
    pub fn read(folder: &Path, container: ContainerUuid) -> Result<Self> {
        let read =
            || -> std::io::Result<Self> { Ok(serde_json::from_slice(&std::fs::read(folder.join(NAME))?)?) };
        read().map_err(|e| Error::Record { container, what: "read", reason: e.to_string() })
    }

    /// Writes the record.
    pub fn write(&self, folder: &Path, container: ContainerUuid) -> Result<()> {
        let path = folder.join(NAME);
        let temporary = folder.join(format!("{NAME}.new"));
        let write = || {
            std::fs::write(&temporary, serde_json::to_vec(self)?)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|e: std::io::Error| Error::Record {
            container,
            what: "written",
            reason: e.to_string(),
        })
    }
}
