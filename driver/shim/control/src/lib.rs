//! What a sandbox's shim and its controller say to each other.
//!
//! A sandbox has a folder. The controller writes the [`SandboxPlan`] there and starts the shim on it; the shim
//! keeps [`SandboxState`] and the container's log there and listens on a control socket. On the socket each
//! connection carries one [`Request`] and its answer, a line of JSON each; after some, the bytes of a process.

#![deny(unsafe_code)]

mod client;
mod files;
mod log;
mod message;
#[allow(unsafe_code)]
mod passing;
mod plan;
mod state;

pub use client::{Client, ClientError, Connection};
pub use files::{RunDir, SandboxDir, open_untrusted, write_atomically};
pub use log::{LogEntry, LogStream};
pub use message::{
    Answer, ContainerProcess, ContainerUser, CreateContainer, DeviceTraffic, Exec, ExecResult, FileStat,
    Flow, InsertDisk, InsertNic, Interact, NetworkCounters, Pack, Packed, ProcessInput, Request, Resize,
    Signal, SignalTarget, Stats, Storage, StorageDriver, Unpack, Update, WindowSize, read_line, write_line,
};
pub use oci_spec::runtime::Process;
pub use passing::{receive_request, send_request};
pub use plan::{
    DiskSlot, LogLimits, Network, Nic, NicAddress, NicRoute, Origin, RateLimit, SandboxPlan, queue_pairs,
};
pub use state::{ContainerExit, Phase, SandboxState, Stage};
