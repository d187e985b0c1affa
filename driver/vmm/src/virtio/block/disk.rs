use std::fs::File;
use std::io::{Seek, SeekFrom};

use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use super::request::SECTOR;
use crate::config::{DiskAccess, DiskConfig, RateLimit};
use crate::{Error, Result};

/// What is in a slot.
pub struct Disk {
    /// Its raw file or block device.
    pub file: File,
    /// Whether the guest may write.
    pub access: DiskAccess,
    /// Bytes, whole sectors.
    pub capacity: u64,
    /// What the guest is told for its serial number.
    pub serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    /// How fast it may be.
    pub limit: RateLimit,
}

impl Disk {
    /// A disk with the whole sectors of its file or block device.
    pub fn new(mut disk: DiskConfig, access: DiskAccess) -> Result<Self> {
        let length = disk.file.seek(SeekFrom::End(0)).map_err(Error::io("measure a disk image"))?;
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        let bytes = disk.serial.as_bytes();
        let kept = bytes.len().min(serial.len());
        serial[..kept].copy_from_slice(&bytes[..kept]);
        Ok(Self { file: disk.file, access, capacity: length / SECTOR * SECTOR, serial, limit: disk.limit })
    }

    /// Whether `length` bytes from `offset` on are whole sectors of the disk.
    pub fn in_range(&self, offset: u64, length: u64) -> bool {
        length.is_multiple_of(SECTOR)
            && length > 0
            && offset.checked_add(length).is_some_and(|end| end <= self.capacity)
    }
}
