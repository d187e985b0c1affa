//! The disks and interfaces in a sandbox's slots.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use shim_control::{DeviceTraffic, InsertDisk, InsertNic, Network};

use super::Supervisor;
use crate::error::Result;

impl Supervisor {
    /// Puts a disk into a free slot, and returns its device in the guest.
    pub async fn insert_disk(&self, disk: InsertDisk, image: OwnedFd) -> Result<PathBuf> {
        self.agent()?;
        self.slots.lock().await.insert_disk(disk, image)
    }

    /// The device of a disk in the guest.
    pub async fn find_disk(&self, name: &str) -> Result<PathBuf> {
        self.slots.lock().await.find_disk(name)
    }

    /// Takes a disk out of its slot. Idempotent: succeeds if it is in none.
    pub async fn eject_disk(&self, name: &str) -> Result<()> {
        self.slots.lock().await.eject_disk(name)
    }

    /// Puts an interface into a free slot.
    pub async fn insert_nic(&self, nic: InsertNic, files: Vec<OwnedFd>) -> Result<()> {
        self.agent()?;
        self.slots.lock().await.insert_nic(nic, files)
    }

    /// Takes an interface out of its slot. Idempotent: succeeds if it is in none.
    pub async fn eject_nic(&self, mac: &str) -> Result<()> {
        self.slots.lock().await.eject_nic(self.agent()?, mac).await
    }

    /// Sets up the guest's interfaces, routes, name servers and hosts.
    pub async fn set_network(&self, network: &Network) -> Result<()> {
        self.slots.lock().await.set_network(self.agent()?, network).await
    }

    /// The traffic of the disks and interfaces.
    pub async fn traffic(&self) -> Vec<DeviceTraffic> {
        self.slots.lock().await.traffic()
    }
}
