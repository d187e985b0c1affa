//! A machine's state in two files, from which other machines go on.
//!
//! `memory` is the guest's memory, sparse, mapped by every restored machine as its own copy; `state` is the rest. A
//! machine can be restored only on the host and since the boot on which it was saved: the caller sees to that.

mod controllers;
mod files;

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState;

pub use controllers::{Controllers, restore as restore_controllers, save as save_controllers};
pub use files::{Snapshot, SnapshotFiles};

use crate::config::{DiskAccess, MachineConfig};
use crate::cpu::VcpuState;
use crate::virtio::TransportState;

/// What must be the same in a restored machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Number of vCPUs that the guest starts with, and that it may take into use.
    pub vcpus: u8,
    pub vcpus_max: u8,
    /// Memory in MiB, and to what it may grow.
    pub memory_mib: u64,
    pub memory_max_mib: u64,
    /// Slots for disks.
    pub disk_slots: Vec<DiskAccess>,
    /// Permanent addresses of the slots for interfaces.
    pub nic_slots: Vec<[u8; 6]>,
    /// Pairs of queues of each.
    pub queue_pairs: u8,
    /// The guest's context identifier, if it has a socket device.
    pub cid: Option<u32>,
}

impl Shape {
    /// The shape of a machine to be.
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

/// All of a machine but its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// What a restored machine must have in common.
    pub shape: Shape,
    /// One for each vCPU.
    pub vcpus: Vec<VcpuState>,
    /// Interrupt controllers, timer, clock.
    pub controllers: Controllers,
    /// The serial port.
    #[serde(with = "SavedSerial")]
    pub serial: SerialState,
    /// One for each device, in the order of their windows.
    pub devices: Vec<TransportState>,
}

/// How the serial port's registers are written; the names are those of the 16550.
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
