//! Locks by key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// One lock for each key. Who locks a key waits for those who have the same key, in order, and for nobody else. A key takes
/// memory only while somebody has it or waits for it.
#[derive(Debug, Default)]
pub struct KeyedLock {
    locks: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl KeyedLock {
    /// Locks `key` until the guard is dropped.
    pub async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        self.lock_of(key).lock_owned().await
    }

    fn lock_of(&self, key: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_same_key_is_waited_for() {
        let locks = KeyedLock::default();
        let first = locks.lock("a").await;
        let second = locks.lock("b").await;
        assert!(timeout(Duration::from_secs(1), locks.lock("a")).await.is_err());
        drop(first);
        let first = locks.lock("a").await;
        drop((first, second));
        let _third = locks.lock("c").await;
        assert_eq!(locks.locks.lock().unwrap().len(), 1);
    }
}
