//! Handles by which a machine's owner changes devices while the guest runs. Clones are handles of the same device.
//!
//! A handle may outlive its machine: the device is closed with the machine, and later changes of it fail.

use std::sync::{MutexGuard, PoisonError};

use super::{
    Block, Mem, MemGauge, MmioTransport, Net, Patience, SharedTransport, Traffic, TrafficCounter,
    VirtioDevice,
};
use crate::Result;
use crate::config::{DiskConfig, MacAddress, NicConfig};

/// A disk slot: a block device that the guest has from its start, with or without a disk in it.
#[derive(Clone)]
pub struct BlockSlot {
    transport: SharedTransport<Block>,
    traffic: TrafficCounter,
    patience: Patience,
}

impl BlockSlot {
    pub(crate) fn new(
        transport: SharedTransport<Block>,
        traffic: TrafficCounter,
        patience: Patience,
    ) -> Self {
        Self { transport, traffic, patience }
    }

    /// Puts a disk into the slot, which must be empty.
    pub fn insert(&self, disk: DiskConfig) -> Result<()> {
        lock(&self.transport).change(|slot| slot.insert(disk))
    }

    /// Takes the disk out. The guest must have stopped using it: what it has not written yet is lost.
    pub fn eject(&self) -> Result<()> {
        lock(&self.transport).change(Block::eject)
    }

    /// Traffic since the slot was last filled.
    pub fn traffic(&self) -> Traffic {
        self.traffic.traffic()
    }

    /// Lets writes fail for which the host has no room, so that the guest can end in order.
    pub fn end_patience(&self) {
        self.patience.end();
    }
}

/// An interface slot: a network device that the guest has from its start, with or without a tap in it.
#[derive(Clone)]
pub struct NicSlot {
    transport: SharedTransport<Net>,
    address: MacAddress,
}

impl NicSlot {
    pub(crate) fn new(transport: SharedTransport<Net>, address: MacAddress) -> Self {
        Self { transport, address }
    }

    /// The device's permanent address, by which the guest tells slots apart.
    pub fn address(&self) -> MacAddress {
        self.address
    }

    /// Connects an interface to the slot, which must be empty.
    pub fn insert(&self, nic: NicConfig) -> Result<()> {
        lock(&self.transport).change(|slot| slot.insert(nic))
    }

    /// Disconnects the interface.
    pub fn eject(&self) -> Result<()> {
        lock(&self.transport).change(Net::eject)
    }
}

/// The memory device of a guest whose memory may grow.
#[derive(Clone)]
pub struct MemHandle {
    transport: SharedTransport<Mem>,
    gauge: MemGauge,
}

impl MemHandle {
    pub(crate) fn new(transport: SharedTransport<Mem>, gauge: MemGauge) -> Self {
        Self { transport, gauge }
    }

    /// Asks the guest to have `bytes`, rounded up to whole blocks, beyond its initial memory.
    pub fn request(&self, bytes: u64) -> Result<()> {
        self.gauge.request(bytes)?;
        lock(&self.transport).tell_of_change();
        Ok(())
    }

    /// How much memory the guest was asked to have, and has.
    pub fn gauge(&self) -> &MemGauge {
        &self.gauge
    }
}

fn lock<D: VirtioDevice>(transport: &SharedTransport<D>) -> MutexGuard<'_, MmioTransport<D>> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}
