//! The serialised state of a device's transport. A state that is read back is untrusted.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};

use crate::{Error, Result};

/// The registers and queues of a device, as its driver has set them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// The device's number; a restored device must have the same.
    pub device_type: u32,
    /// Features that were offered; a restored device must offer the same.
    pub offered: u64,
    /// The queues.
    pub queues: Vec<SavedQueue>,
    /// Queue pairs in use by an interface's driver.
    pub queue_pairs: u16,
    /// `QueueSel`.
    pub selected_queue: u64,
    /// `DeviceFeaturesSel`.
    pub device_features_page: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_page: u32,
    /// Features that the driver accepted.
    pub accepted: u64,
    /// `Status`.
    pub status: u32,
    /// `InterruptStatus`.
    pub interrupt_status: u32,
    /// `ConfigGeneration`.
    pub config_generation: u32,
}

/// A queue; the fields are those of [`QueueState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SavedQueue {
    pub max_size: u16,
    pub next_avail: u16,
    pub next_used: u16,
    pub event_idx_enabled: bool,
    pub size: u16,
    pub ready: bool,
    pub desc_table: u64,
    pub avail_ring: u64,
    pub used_ring: u64,
}

impl SavedQueue {
    /// The queue, its sizes and alignments checked.
    pub fn to_queue(&self) -> Result<Queue> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx_enabled,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        };
        Queue::try_from(state).map_err(Error::queue)
    }
}

impl From<QueueState> for SavedQueue {
    fn from(state: QueueState) -> Self {
        Self {
            max_size: state.max_size,
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx_enabled: state.event_idx_enabled,
            size: state.size,
            ready: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        }
    }
}
