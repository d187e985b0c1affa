//! What this host keeps of a sandbox's network, whether it is a container's or a capsule's.

use std::path::Path;

use crate::capsule_record::CapsuleRecord;
use crate::error::Result;
use crate::networking::Attachment;
use crate::record::Record;

/// The record in a sandbox's folder.
pub enum SandboxRecord {
    /// A container's.
    Container(Box<Record>),
    /// A capsule's.
    Capsule(Box<CapsuleRecord>),
}

impl SandboxRecord {
    /// Reads the record in a sandbox's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let capsule = || CapsuleRecord::read(folder).map(|record| Self::Capsule(Box::new(record)));
        let container = Record::read(folder).map(|record| Self::Container(Box::new(record)));
        container.or_else(|e| capsule().map_err(|_| e))
    }

    /// Writes the record.
    pub fn write(&self, folder: &Path) -> Result<()> {
        match self {
            Self::Container(record) => record.write(folder),
            Self::Capsule(record) => record.write(folder),
        }
    }

    /// Its places on networks.
    pub fn attachments(&self) -> &[Attachment] {
        match self {
            Self::Container(record) => &record.attachments,
            Self::Capsule(record) => &record.attachments,
        }
    }

    /// The same, to be changed.
    pub fn attachments_mut(&mut self) -> &mut Vec<Attachment> {
        match self {
            Self::Container(record) => &mut record.attachments,
            Self::Capsule(record) => &mut record.attachments,
        }
    }

    /// The guest's name.
    pub fn hostname(&self) -> &str {
        match self {
            Self::Container(record) => &record.container.hostname,
            Self::Capsule(record) => &record.hostname,
        }
    }
}
