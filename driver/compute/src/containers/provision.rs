//! What a sandbox needs of others, behind a seam: its image, its ports, its volumes, its share of the host.

use std::fmt;

use model::{Changes, Container, ContainerUuid, RequestedNetwork, RequestedVolume};
use oslo::RequestContext;
use sandbox::VolumeDisk;

use crate::error::Result;
use crate::record::SandboxRecord;
use crate::turns::Turn;

/// What a creation is asked for, beside what the row says.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Who asks.
    pub context: RequestContext,
    /// The networks.
    pub networks: Vec<RequestedNetwork>,
    /// The volumes of each container.
    pub volumes: Vec<Volume>,
}

impl Wanted {
    /// The rows of the volumes.
    pub fn volume_rows(&self) -> Vec<i32> {
        self.volumes.iter().map(|(_, volume)| volume.volume_id).collect()
    }
}

/// A volume that is asked for, and for which container.
pub type Volume = (ContainerUuid, RequestedVolume);

/// Whether a deletion must give all back, or may remember what it could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// What cannot be given back is an error.
    All,
    /// What cannot be given back is remembered on this host, and given back later.
    Debts,
}

/// Provides for sandboxes.
pub trait Provision: Clone + Send + Sync + 'static {
    /// What is known of a container's health.
    type Health: fmt::Display;

    /// Gives a container that is this host's the volumes that are asked for it.
    fn accept(&self, volumes: &[Volume]) -> impl Future<Output = Result<()>> + Send;
    /// Makes a container or a capsule this host's, if it has room for it, and writes that with `changes`.
    fn claim(&self, row: &mut Container, changes: Changes) -> impl Future<Output = Result<()>> + Send;
    /// Makes all that it needs. It ends early, with an error, once `turn` is hurried. What it leaves then is undone with
    /// [`Self::unmake`].
    fn make(
        &self,
        wanted: &Wanted,
        row: &mut Container,
        turn: &Turn,
    ) -> impl Future<Output = Result<Changes>> + Send;
    /// Makes a container anew from its image. Until the image is there it is as it was.
    fn remake(
        &self,
        context: &RequestContext,
        row: &mut Container,
        turn: &Turn,
    ) -> impl Future<Output = Result<Changes>> + Send;
    /// Takes away all that it has, on this host and elsewhere, and the volumes of the rows that were `asked` for it. Idempotent.
    fn unmake(
        &self,
        row: &Container,
        asked: &[i32],
        thoroughness: Thoroughness,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Gives back what others have made for one that no host has begun to make. What cannot be given back is remembered.
    fn give_back_unbegun(
        &self,
        uuid: ContainerUuid,
        asked: &[i32],
    ) -> impl Future<Output = Result<()>> + Send;
    /// Connects its volumes to this host.
    fn disks(
        &self,
        row: &Container,
        record: &SandboxRecord,
    ) -> impl Future<Output = Result<Vec<VolumeDisk>>> + Send;
    /// Does again, or takes back, what was interrupted of its networks and security groups.
    fn mend_networks(&self, row: &Container) -> impl Future<Output = Result<Changes>> + Send;
    /// Takes over what Neutron and Placement have for a container of this host under another name of the host.
    fn take_over(&self, row: &mut Container) -> impl Future<Output = Result<()>> + Send;
    /// What goes on beside a container while it runs: checks of its health. It does not end.
    fn accompany(&self, row: &Container) -> impl Future<Output = ()> + Send;
    /// A container's health, if it is checked.
    fn health(&self, uuid: ContainerUuid) -> Option<Self::Health>;
}
