//! What a sandbox's slots hold: disks and interfaces.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use shim_control::{DeviceTraffic, InsertDisk, InsertNic, Network};

use super::Supervisor;
use crate::error::Result;

impl Supervisor {
    /// Puts a disk into a free slot, and says where the guest has it.
    pub async fn insert_disk(&self, disk: InsertDisk, image: OwnedFd) -> Result<PathBuf> {
        self.agent()?;
        self.media.lock().await.insert_disk(&self.machine, disk, image)
    }

    /// Where the guest has a disk.
    pub async fn find_disk(&self, name: &str) -> Result<PathBuf> {
        self.media.lock().await.find_disk(name)
    }

    /// Takes a disk out of its slot.
    pub async fn eject_disk(&self, name: &str) -> Result<()> {
        self.media.lock().await.eject_disk(&self.machine, name)
    }

    /// Puts an interface into a free slot.
    pub async fn insert_nic(&self, nic: InsertNic, files: Vec<OwnedFd>) -> Result<()> {
        self.agent()?;
        self.media.lock().await.insert_nic(&self.machine, nic, files)
    }

    /// Takes an interface out of its slot.
    pub async fn eject_nic(&self, mac: &str) -> Result<()> {
        self.media.lock().await.eject_nic(&self.machine, self.agent()?, mac).await
    }

    /// Tells the guest what its interfaces have, where its packets go and how others are called.
    pub async fn set_network(&self, network: &Network) -> Result<()> {
        self.media.lock().await.set_network(self.agent()?, network).await
    }

    /// What went through the disks and interfaces.
    pub async fn traffic(&self) -> Result<Vec<DeviceTraffic>> {
        self.media.lock().await.traffic(&self.machine)
    }
}
