//! What is done to sandboxes, from their records alone: they are started, asked and ended. It knows no row of the control plane.

mod host_engine;

use std::collections::BTreeMap;

use model::ContainerUuid;
use sandbox::{ContainerExit, SandboxStatus, VolumeDisk};

pub use host_engine::HostEngine;

use crate::error::Result;
use crate::record::SandboxRecord;
use crate::turns::Turn;

/// The sandboxes of a host, behind a seam: tests put a world of their own there.
pub trait Engine: Clone + Send + Sync + 'static {
    /// What is kept of a sandbox.
    fn record(&self, id: ContainerUuid) -> Result<SandboxRecord>;
    /// The same, if anything is. What cannot be read is an error, and is not taken for nothing.
    fn find_record(&self, id: ContainerUuid) -> Result<Option<SandboxRecord>>;
    /// Keeps it.
    fn write_record(&self, id: ContainerUuid, record: &SandboxRecord) -> Result<()>;
    /// All sandboxes that have a folder, and what their shims have written. Nobody is asked.
    fn survey(&self) -> Result<BTreeMap<ContainerUuid, SandboxStatus>>;
    /// What has become of a sandbox.
    fn status(&self, id: ContainerUuid) -> impl Future<Output = SandboxStatus> + Send;
    /// The same, where a shim that has just not answered is not asked again.
    fn glance(&self, id: ContainerUuid) -> impl Future<Output = SandboxStatus> + Send;
    /// Brings the guest up with these disks on its networks, and runs its main process if it has one. If that fails, or is
    /// given up once `turn` is hurried, nothing runs.
    fn start(
        &self,
        id: ContainerUuid,
        record: &SandboxRecord,
        disks: Vec<VolumeDisk>,
        turn: &Turn,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Runs a container of a sandbox whose guest is up, unless it runs.
    fn run_member(
        &self,
        id: ContainerUuid,
        record: &SandboxRecord,
        member: &str,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Takes a container that has ended out of its guest.
    fn end_member(&self, id: ContainerUuid, member: &str) -> impl Future<Output = Result<()>> + Send;
    /// Waits for the end of a process.
    fn wait(&self, id: ContainerUuid, process: &str) -> impl Future<Output = Result<ContainerExit>> + Send;
    /// Signals a process.
    fn signal(
        &self,
        id: ContainerUuid,
        process: &str,
        number: u32,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Lets the processors stand still.
    fn pause(&self, id: ContainerUuid) -> impl Future<Output = Result<()>> + Send;
    /// Lets them go on.
    fn resume(&self, id: ContainerUuid) -> impl Future<Output = Result<()>> + Send;
    /// Ends the guest in order and takes away what it held: its taps. Its disks, its ports and its log stay. Idempotent.
    fn release(&self, id: ContainerUuid) -> impl Future<Output = Result<()>> + Send;
}
