//! How many of something each key has, such as a peer its connections: who has many must not keep all others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What each key has. A key takes memory only while it has any.
#[derive(Debug)]
pub struct Counted<K>(Arc<Mutex<HashMap<K, usize>>>);

/// One of those that a key has, until it is dropped.
#[derive(Debug)]
pub struct One<K: Eq + Hash> {
    counted: Counted<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Counted<K> {
    /// Lets a key have one more, unless it has `most` already.
    pub fn enter(&self, key: K, most: usize) -> Option<One<K>> {
        let mut all = self.lock();
        let count = all.entry(key.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(One { counted: Self(Arc::clone(&self.0)), key })
    }
}

impl<K> Counted<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl<K> Counted<K> {
    /// Whether nobody has any.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash> Drop for One<K> {
    fn drop(&mut self) {
        let mut all = self.counted.lock();
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_many_keeps_no_other_out() {
        let peers = Counted::default();
        let mut held: Vec<_> = (0..3).map(|_| peers.enter("one", 3).unwrap()).collect();
        assert!(peers.enter("one", 3).is_none() && peers.enter("other", 3).is_some());
        held.pop();
        assert!(peers.enter("one", 3).is_some());
        drop(held);
        assert!(peers.is_empty(), "who is gone is forgotten");
    }
}
