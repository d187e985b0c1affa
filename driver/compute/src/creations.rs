//! Creations that this service has taken and no row names this host for yet. Others have made something for them: Placement an
//! allocation, Cinder volumes. If the service dies, nobody else would know.

use std::path::PathBuf;
use std::sync::Arc;

use model::ContainerUuid;
use serde::{Deserialize, Serialize};
use shares::{Place, Shares};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Result;
use crate::kept::Kept;

/// Files that are written at one time: each waits for the disk, on a thread that others need too.
const WRITES_AT_ONCE: usize = 16;
/// Refused creations that are given back at one time: nobody counts them, and each asks other services.
const REFUSALS_AT_ONCE: usize = 8;
/// Of these, of one project: another's do not wait behind all of its own.
const REFUSALS_OF_A_PROJECT: usize = 2;

/// A creation that is taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The container or the capsule.
    pub uuid: ContainerUuid,
    /// Its project.
    pub project: String,
    /// The rows of the volumes that are asked for it.
    pub volumes: Vec<i32>,
}

/// The creations that are taken.
#[derive(Debug, Clone)]
pub struct Creations {
    notes: Kept<Note>,
    writes: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    of_projects: Shares,
}

/// The right to give one back, until it is dropped.
#[derive(Debug)]
pub struct Refusal(
    #[expect(dead_code, reason = "it is dropped")] Place,
    #[expect(dead_code, reason = "it is dropped")] Option<OwnedSemaphorePermit>,
);

/// What is remembered of one.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    project: String,
    volumes: Vec<i32>,
}

impl Creations {
    /// Creations that are remembered in `folder`, which is made if it is absent.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let (writes, refusals) = (Semaphore::new(WRITES_AT_ONCE), Semaphore::new(REFUSALS_AT_ONCE));
        let (writes, refusals) = (Arc::new(writes), Arc::new(refusals));
        Ok(Self {
            notes: Kept::open(folder)?,
            writes,
            refusals,
            of_projects: Shares::new(REFUSALS_OF_A_PROJECT),
        })
    }

    /// Remembers one. That it cannot be remembered is no reason not to make it.
    pub async fn remember(&self, taken: Taken) {
        let _write = self.writes.acquire().await;
        let notes = self.notes.clone();
        let Taken { uuid, project, volumes } = taken;
        let write = move || notes.write(uuid, &Note { project, volumes });
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

    /// The containers and capsules whose creation is taken.
    pub fn containers(&self) -> Result<Vec<ContainerUuid>> {
        self.notes.containers()
    }

    /// Those that an earlier life of this service has left.
    pub fn left(&self) -> Result<Vec<Taken>> {
        let left = self.notes.list()?.into_iter();
        Ok(left.map(|(uuid, Note { project, volumes })| Taken { uuid, project, volumes }).collect())
    }

    /// Waits until one more of a project's that is refused may be given back.
    pub async fn refusal(&self, project: &str) -> Refusal {
        let own = self.of_projects.place(project).await;
        Refusal(own, Arc::clone(&self.refusals).acquire_owned().await.ok())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_creation_is_remembered_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let creations = Creations::open(folder.path().to_owned()).unwrap();
        let uuid = ContainerUuid(Uuid::new_v4());
        creations.remember(Taken { uuid, project: "p".into(), volumes: vec![7] }).await;
        let left = Creations::open(folder.path().to_owned()).unwrap().left().unwrap();
        assert_eq!((left.len(), left[0].uuid, &left[0].volumes[..]), (1, uuid, &[7][..]));
        assert_eq!(left[0].project, "p");
        creations.forget(uuid);
        assert!(creations.left().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_project_takes_no_place_that_another_needs() {
        let folder = tempfile::tempdir().unwrap();
        let creations = Creations::open(folder.path().to_owned()).unwrap();
        let soon = Duration::from_secs(1);
        let mut places = Vec::new();
        while let Ok(place) = timeout(soon, creations.refusal("a")).await {
            places.push(place);
        }
        assert_eq!(places.len(), REFUSALS_OF_A_PROJECT);
        assert!(timeout(soon, creations.refusal("b")).await.is_ok());
        drop(places);
        assert!(timeout(soon, creations.refusal("a")).await.is_ok());
    }
}
