//! Creations that this service has taken and no row names this host for yet. Others have made something for them: Placement an
//! allocation, Cinder volumes. If the service dies, nobody else would know.

use std::path::PathBuf;
use std::sync::Arc;

use model::ContainerUuid;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::Result;
use crate::kept::Kept;

/// Files that are written at one time: each waits for the disk, on a thread that others need too.
const WRITES_AT_ONCE: usize = 16;
/// Refused creations that are given back at one time: nobody counts them, and each asks other services.
const REFUSALS_AT_ONCE: usize = 8;

/// A creation that is taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The container or the capsule.
    pub uuid: ContainerUuid,
    /// The rows of the volumes that are asked for it.
    pub volumes: Vec<i32>,
}

/// The creations that are taken.
#[derive(Debug, Clone)]
pub struct Creations {
    notes: Kept<Note>,
    writes: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// What is remembered of one.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    volumes: Vec<i32>,
}

impl Creations {
    /// Creations that are remembered in `folder`, which is made if it is absent.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let (writes, refusals) = (Semaphore::new(WRITES_AT_ONCE), Semaphore::new(REFUSALS_AT_ONCE));
        Ok(Self { notes: Kept::open(folder)?, writes: Arc::new(writes), refusals: Arc::new(refusals) })
    }

    /// Remembers one. That it cannot be remembered is no reason not to make it.
    pub async fn take(&self, taken: Taken) {
        let _write = self.writes.acquire().await;
        let notes = self.notes.clone();
        let write = move || notes.write(taken.uuid, &Note { volumes: taken.volumes });
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "a creation is not remembered"),
            Err(e) => tracing::error!(error = %e, "a creation is not remembered"),
        }
    }

    /// Forgets one that has come to its end, or whose row names a host. Idempotent.
    pub fn forget(&self, uuid: ContainerUuid) {
        if let Err(e) = self.notes.forget(uuid) {
            tracing::error!(container = %uuid, error = %e, "that a creation has ended is not recorded");
        }
    }

    /// Those that an earlier life of this service has left.
    pub fn left(&self) -> Result<Vec<Taken>> {
        let left = self.notes.list()?.into_iter();
        Ok(left.map(|(uuid, Note { volumes })| Taken { uuid, volumes }).collect())
    }

    /// Waits until one more that is refused may be given back.
    pub async fn refusal(&self) -> Option<SemaphorePermit<'_>> {
        self.refusals.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_creation_is_remembered_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let creations = Creations::open(folder.path().to_owned()).unwrap();
        let uuid = ContainerUuid(Uuid::new_v4());
        creations.take(Taken { uuid, volumes: vec![7] }).await;
        let left = Creations::open(folder.path().to_owned()).unwrap().left().unwrap();
        assert_eq!((left.len(), left[0].uuid, &left[0].volumes[..]), (1, uuid, &[7][..]));
        creations.forget(uuid);
        assert!(creations.left().unwrap().is_empty());
    }
}
