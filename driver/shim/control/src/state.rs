use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What a sandbox is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// The guest is coming up.
    Booting,
    /// The agent answers and the guest is set up.
    Ready,
    /// It is ready, and its processors stand still.
    Paused,
    /// The guest is gone, in order.
    Ended,
    /// The guest could not be started, or died.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Points in a sandbox's start, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The shim's first instruction.
    ShimStarted,
    /// The machine is built.
    VmCreated,
    /// The shim has given up all rights.
    Confined,
    /// Its vCPUs run: in the kernel's first instruction, or where a template's were.
    GuestEntered,
    /// The agent answered its first call.
    AgentReady,
    /// The guest's state was saved as a template.
    TemplateSaved,
    /// The guest has its name, the time and a seed.
    SandboxReady,
    /// The container's process waits.
    ContainerCreated,
    /// The container's process runs.
    ProcessRunning,
}

/// How a container's first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// 0 to 255, or 128 and a signal's number.
    pub status: i32,
    /// Whether a process of it was killed for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// What a shim knows and keeps in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// What the sandbox is doing.
    #[serde(flatten)]
    pub phase: Phase,
    /// Containers that have been started, and how they ended, if they have.
    pub containers: BTreeMap<String, Option<ContainerExit>>,
    /// Whether the guest goes on from a template, rather than having booted.
    pub from_template: bool,
    /// When each stage was reached, in microseconds since the epoch.
    pub stages: BTreeMap<Stage, u64>,
}

impl SandboxState {
    /// Whether the guest is up or coming up.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Booting | Phase::Ready | Phase::Paused)
    }
}
