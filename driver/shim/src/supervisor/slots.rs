//! The disks and interfaces in a sandbox's slots. A change of one waits for the thread that serves it, which may wait for
//! storage, and so is made aside.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use shim_control::{DeviceTraffic, InsertDisk, InsertNic, Network};
use tokio::sync::OwnedMutexGuard;

use super::Supervisor;
use crate::aside::aside;
use crate::device_slots::DeviceSlots;
use crate::error::Result;
use crate::guest;

impl Supervisor {
    /// Puts a disk into a free slot, and returns its device in the guest.
    pub async fn insert_disk(&self, disk: InsertDisk, image: OwnedFd) -> Result<PathBuf> {
        self.agent()?;
        let mut slots = self.slots().await;
        aside(move || slots.insert_disk(disk, image)).await
    }

    /// The device of a disk in the guest.
    pub async fn find_disk(&self, name: &str) -> Result<PathBuf> {
        self.slots().await.find_disk(name)
    }

    /// Takes a disk out of its slot. Idempotent: succeeds if it is in none.
    pub async fn eject_disk(&self, name: String) -> Result<()> {
        let mut slots = self.slots().await;
        aside(move || slots.eject_disk(&name)).await
    }

    /// Puts an interface into a free slot.
    pub async fn insert_nic(&self, nic: InsertNic, files: Vec<OwnedFd>) -> Result<()> {
        self.agent()?;
        let mut slots = self.slots().await;
        aside(move || slots.insert_nic(nic, files)).await
    }

    /// Takes an interface down in the guest, and out of its slot. Idempotent: succeeds if it is in none.
    pub async fn eject_nic(&self, mac: String) -> Result<()> {
        let agent = self.agent()?;
        let mut slots = self.slots().await;
        let Some(address) = slots.nic_address(&mac) else { return Ok(()) };
        guest::take_down_nic(agent, address).await?;
        aside(move || slots.eject_nic(&mac)).await
    }

    /// Sets up the guest's interfaces, routes, name servers and hosts.
    pub async fn set_network(&self, network: &Network) -> Result<()> {
        self.slots().await.set_network(self.agent()?, network).await
    }

    /// The traffic of the disks and interfaces.
    pub async fn traffic(&self) -> Vec<DeviceTraffic> {
        self.slots().await.traffic()
    }

    async fn slots(&self) -> OwnedMutexGuard<DeviceSlots> {
        Arc::clone(&self.slots).lock_owned().await
    }
}
