//! A machine's state in two files, from which other machines are restored.
//!
//! `memory` is the guest's memory, sparse, mapped copy-on-write by every restored machine; `state` is the rest. A
//! snapshot may be restored only on the host and during the host's boot on which it was made: the caller ensures that.

mod controllers;
mod files;

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState;

pub use controllers::{Controllers, restore as restore_controllers, save as save_controllers};
pub use files::{Snapshot, SnapshotFiles};

use crate::config::{DiskAccess, MachineConfig};
use crate::cpu::VcpuState;
use crate::virtio::TransportState;

/// The guest-visible parts of a machine, which a machine restored from its snapshot must have too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineTopology {
    /// Number of vCPUs that the guest starts with.
    pub vcpus: u8,
    /// Number of vCPUs that the guest may bring online.
    pub vcpus_max: u8,
    /// Initial memory in MiB.
    pub memory_mib: u64,
    /// Memory in MiB that the guest may grow to.
    pub memory_max_mib: u64,
    /// Access to each disk slot.
    pub disk_slots: Vec<DiskAccess>,
    /// Permanent addresses of the interface slots.
    pub nic_slots: Vec<[u8; 6]>,
    /// Queue pairs of each interface.
    pub queue_pairs: u8,
    /// The guest's context identifier, if it has a socket device.
    pub cid: Option<u32>,
}

impl MachineTopology {
    /// The topology of the machine that `config` describes.
    pub fn of(config: &MachineConfig) -> Self {
        Self {
            vcpus: config.vcpus,
            vcpus_max: config.vcpus_max,
            memory_mib: config.memory_mib,
            memory_max_mib: config.memory_max_mib,
            disk_slots: config.disk_slots.clone(),
            nic_slots: config.nic_slots.iter().map(|mac| mac.0).collect(),
            queue_pairs: config.queue_pairs,
            cid: config.vsock.as_ref().map(|vsock| vsock.cid),
        }
    }
}

/// The state of a machine without its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// The topology that a restored machine must have.
    pub topology: MachineTopology,
    /// One for each vCPU.
    pub vcpus: Vec<VcpuState>,
    /// Interrupt controllers, timer and clock.
    pub controllers: Controllers,
    /// The serial port.
    #[serde(with = "SavedSerial")]
    pub serial: SerialState,
    /// One for each device, in the order of their windows.
    pub devices: Vec<TransportState>,
}

/// The serialised form of the serial port; the names are those of the 16550's registers.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
struct SavedSerial {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}
