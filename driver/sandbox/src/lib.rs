//! Sandboxes on this host: planned, started, adopted after a restart of the service, ended. A sandbox is known by
//! its identifier and lives in a folder; its shim is a process of its own. No word of OpenStack here.

#![deny(unsafe_code)]

mod archives;
mod cgroup;
mod containers;
mod disk;
mod error;
mod files;
mod host;
mod interfaces;
mod launch;
mod logs;
mod oci;
mod pinning;
mod place;
mod probe;
mod shims;
mod signals;
mod size;
#[allow(unsafe_code)]
mod tap;
mod templates;
mod usage;
mod users;

pub use error::{Error, Result};
pub use host::{Host, HostOptions, Sandbox, Situation};
pub use interfaces::GuestNetwork;
pub use launch::{SandboxSpec, VOLUMES_MAX, VolumeDisk};
pub use logs::{LogQuery, Tail};
pub use oci::{ContainerSpec, SharedNamespace, VolumeMount, process};
pub use oci_spec::runtime::Process;
pub use pinning::CpuPinning;
pub use probe::prove_kvm;
pub use shim_control::{
    Connection, ContainerExit, ContainerProcess, ContainerUser, DeviceTraffic, Exec, ExecResult, FileStat,
    Flow, Interact, NetworkCounters, Nic, NicAddress, NicRoute, Phase, ProcessInput, RateLimit, SandboxState,
    Stage, Stats, WindowSize,
};
pub use signals::signal_number;
pub use size::Size;
pub use tap::TapCounters;
pub use usage::Usage;
