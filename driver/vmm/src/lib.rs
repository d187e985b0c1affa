//! A virtual machine monitor for x86-64 Linux guests on KVM.
//!
//! [`Assembly::boot`] builds a machine from a [`MachineConfig`], [`Assembly::run`] starts it, and [`Machine::wait`]
//! returns how it ended. The guest is booted directly from an ELF kernel through the PVH protocol and sees a serial
//! port, a reset port and virtio-mmio devices, nothing else. Its disks and interfaces are slots ([`BlockSlot`],
//! [`NicSlot`]) that are filled while it runs, so that [`Assembly::restore`] can continue another machine's snapshot
//! with other disks and interfaces. This crate knows no containers.

mod boot;
mod bus;
mod config;
mod console;
mod cpu;
mod error;
mod event;
mod hardware;
mod layout;
mod machine;
mod memory;
mod snapshot;
pub mod threads;
pub mod virtio;

pub use config::{
    BootConfig, DiskAccess, DiskConfig, MacAddress, MachineConfig, NicConfig, ParseMacError, RateLimit,
    TapQueue, VsockConfig,
};
pub use console::ConsoleRing;
pub use error::{Error, Result};
pub use machine::{Assembly, BASE_COMMAND_LINE, GuestExit, Machine};
pub use memory::Growth;
pub use snapshot::{Snapshot, SnapshotFiles};
pub use threads::Confinement;
pub use virtio::{BlockSlot, Flow, NicSlot, Traffic};
