//! The sandbox agent's messages and service.
//!
//! Method names, service name and field numbers are those of Kata Containers' `AgentService`, so that either side
//! can be Kata's where both know a call.

mod spec;

pub use spec::{
    SpecError, process_from_wire, process_to_wire, resources_from_wire, resources_to_wire, spec_from_wire,
    spec_to_wire,
};

#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/generated.rs"));
}

pub use generated::agent as messages;
pub use generated::agent_ttrpc as service;

/// The vsock port on which the agent listens, Kata's own.
pub const AGENT_PORT: u32 = 1024;

/// Where the agent keeps files that the host wrote and containers mount: `hosts`, `hostname`, `resolv.conf`.
pub const SANDBOX_DIR: &str = "/run/kata-containers/sandbox";

/// Below which each container's file systems are mounted.
pub const CONTAINERS_DIR: &str = "/run/kata-containers/containers";

/// `mmioblk`: a storage whose source is a disk's path in the guest.
pub const STORAGE_MMIO_BLOCK: &str = "mmioblk";

/// `overlayfs`: a storage that unites earlier ones.
pub const STORAGE_OVERLAY: &str = "overlayfs";

/// `local`: no mount but a directory, in an earlier storage if it is below one.
pub const STORAGE_LOCAL: &str = "local";

/// Driver option of an overlay: make this directory first.
pub const OVERLAY_CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// The memory statistic that counts processes killed for want of memory.
pub const OOM_KILL: &str = "oom_kill";
