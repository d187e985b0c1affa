use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::disk::Disk;
use super::patience::Patience;
use super::request::SECTOR;
use super::ring::Ring;
use super::server::{QUEUE_SIZE, Server};
use crate::config::{DiskAccess, DiskConfig};
use crate::virtio::{Active, ConfigSpace, TrafficCounter, VirtioDevice};
use crate::{Error, Result};

/// Most data buffers of one request: a full chain less header and status.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors of one discard or write of zeros: 2 GiB.
const EXTENT_SECTORS: u32 = 4 << 20;
/// Offset of the number of sectors in the configuration space (virtio 1.2 §5.2.4).
const CAPACITY: usize = 0;
/// Offsets and values of the other numbers: buffers of a request; sectors, ranges and alignment of a discard; sectors
/// and ranges of a write of zeros.
const LIMITS: [(usize, u32); 6] =
    [(12, SEGMENTS), (36, EXTENT_SECTORS), (40, 1), (44, BLOCK_SECTORS), (48, EXTENT_SECTORS), (52, 1)];
/// Offset of the flag that a write of zeros may release space.
const MAY_UNMAP: usize = 56;
const CONFIG_SIZE: usize = 60;
/// Allocation unit of the host's file system, in sectors.
const BLOCK_SECTORS: u32 = 8;

/// A slot for a disk on a raw file.
pub struct Block {
    access: DiskAccess,
    disk: Option<Disk>,
    config: ConfigSpace,
    traffic: TrafficCounter,
    patience: Patience,
    ring: Ring,
}

impl Block {
    /// An empty slot: the driver sees a disk of capacity 0.
    pub fn new(access: DiskAccess) -> Result<Self> {
        let mut config = [0; CONFIG_SIZE];
        for (offset, number) in LIMITS {
            config[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        }
        config[MAY_UNMAP] = 1;
        Ok(Self {
            access,
            disk: None,
            config: ConfigSpace::new(&config),
            traffic: TrafficCounter::default(),
            patience: Patience::default(),
            ring: Ring::new(QUEUE_SIZE)?,
        })
    }

    /// Puts a disk into the empty slot; its traffic is counted from zero.
    pub fn insert(&mut self, disk: DiskConfig) -> Result<()> {
        if self.disk.is_some() {
            return Err(Error::Slot("it has a disk already".into()));
        }
        let disk = Disk::new(disk, self.access)?;
        self.config.set(CAPACITY, disk.capacity / SECTOR);
        self.disk = Some(disk);
        self.traffic.reset();
        Ok(())
    }

    /// Takes the disk out and closes its file.
    pub fn eject(&mut self) -> Result<()> {
        self.disk.take().ok_or_else(|| Error::Slot("it has no disk".into()))?;
        self.config.set(CAPACITY, 0);
        Ok(())
    }

    /// Counts the traffic of the disk in the slot.
    pub fn traffic(&self) -> TrafficCounter {
        self.traffic.clone()
    }

    /// Whether its driver waits for room.
    pub fn patience(&self) -> Patience {
        self.patience.clone()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let common = (1 << VIRTIO_BLK_F_FLUSH) | (1 << VIRTIO_BLK_F_SEG_MAX);
        match self.access {
            DiskAccess::ReadOnly => common | (1 << VIRTIO_BLK_F_RO),
            DiskAccess::ReadWrite => common | (1 << VIRTIO_BLK_F_DISCARD) | (1 << VIRTIO_BLK_F_WRITE_ZEROES),
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config_space(&self) -> ConfigSpace {
        self.config.clone()
    }

    fn is_present(&self) -> bool {
        self.disk.is_some()
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        match &self.disk {
            Some(disk) => {
                Server::new(disk, active, &self.traffic, self.patience.clone(), &mut self.ring)?.run()
            }
            None => Ok(()),
        }
    }
}
