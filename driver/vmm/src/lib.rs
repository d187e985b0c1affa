//! A virtual machine monitor for x86-64 Linux guests on KVM.
//!
//! [`Assembly::boot`] takes a [`MachineConfig`] and makes a machine, [`Assembly::run`] lets it run; [`Machine::wait`] tells how it
//! ended. The guest is booted directly from an ELF kernel through the PVH protocol and sees a serial port, a
//! reset port and virtio-mmio devices, nothing else. Its disks and interfaces are slots, filled while it runs, so
//! that [`Assembly::restore`] can go on from another machine's snapshot with other disks and interfaces. This crate
//! knows no containers.

mod boot;
mod bus;
mod config;
mod console;
mod cpu;
mod error;
mod hardware;
mod layout;
mod machine;
mod memory;
mod snapshot;
pub mod threads;
pub mod virtio;

pub use config::{
    BootConfig, DiskAccess, DiskConfig, MacAddress, MachineConfig, NicConfig, ParseMacError, TapQueue,
    VsockConfig,
};
pub use console::ConsoleRing;
pub use error::{Error, Result};
pub use machine::{Assembly, BASE_COMMAND_LINE, GuestExit, Machine};
pub use memory::Growth;
pub use snapshot::{Snapshot, SnapshotFiles};
pub use threads::Confinement;
pub use virtio::{Flow, RateLimit, Traffic};
