//! Sandboxes on this host: planned, started, adopted after a restart of the service, ended. A sandbox is known by
//! its identifier and lives in a folder; its shim is a process of its own. No word of OpenStack here.

#![deny(unsafe_code)]

mod archives;
mod cgroup;
mod containers;
mod disk;
mod error;
#[allow(unsafe_code)]
mod file_size;
mod files;
mod guest_network;
mod guest_paths;
mod host;
mod host_options;
mod interfaces;
mod launch;
mod logs;
mod oci;
mod pinning;
mod plugged;
mod probe;
mod run_folder;
mod sandbox;
mod seccomp;
mod shims;
mod signals;
mod size;
mod spec;
mod status;
mod survey;
#[allow(unsafe_code)]
mod tap;
mod templates;
mod usage;
mod users;

pub use error::{Error, Result};
pub use guest_network::GuestNetwork;
pub use host::Host;
pub use host_options::HostOptions;
pub use logs::{LogQuery, Tail};
pub use oci::{ContainerSpec, SharedNamespace, VolumeMount, process};
pub use oci_spec::runtime::Process;
pub use pinning::CpuPinning;
pub use probe::prove_kvm;
pub use sandbox::Sandbox;
pub use seccomp::SeccompProfile;
pub use shim_control::{
    Connection, ContainerExit, ContainerProcess, ContainerUser, DeviceTraffic, Exec, ExecResult, FileStat,
    Flow, Interact, NetworkCounters, Nic, NicAddress, NicRoute, Phase, ProcessInput, RateLimit, SandboxState,
    Stage, Stats, WindowSize, write_atomically,
};
pub use signals::signal_number;
pub use size::{CpuLimit, Size};
pub use spec::{SandboxSpec, VOLUMES_MAX, VolumeDisk};
pub use status::{SandboxStatus, failure};
pub use tap::TapCounters;
pub use usage::Usage;
pub use users::COUNT as USERS;
