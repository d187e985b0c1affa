use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use model::ContainerUuid;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// One lock for each container: operations on one are done one after another, on different ones side by side.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<ContainerUuid, Weak<AsyncMutex<()>>>>);

impl Locks {
    /// Waits for a container's turn.
    pub async fn lock(&self, uuid: ContainerUuid) -> OwnedMutexGuard<()> {
        self.of(uuid).lock_owned().await
    }

    fn of(&self, uuid: ContainerUuid) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&uuid).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(uuid, Arc::downgrade(&lock));
        lock
    }
}
