//! Work that is done for each key, such as a project, a file or a port, a few at a time: more of the same key waits, and nobody
//! else's.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of each key that has work. A key takes memory only while it has.
#[derive(Debug, Clone)]
pub struct Shares {
    each: usize,
    keys: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// The right to work for a key, until it is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "it is dropped")] Option<OwnedSemaphorePermit>);

impl Shares {
    /// So many places for each key.
    pub fn new(each: usize) -> Self {
        Self { each, keys: Arc::default() }
    }

    /// One place for each key: its work is done one after another, in the order in which it was asked for.
    pub fn one_each() -> Self {
        Self::new(1)
    }

    /// Waits for a place of this key.
    pub async fn place(&self, key: &str) -> Place {
        let places = self.places(key);
        // Nobody closes them.
        Place(places.acquire_owned().await.ok())
    }

    fn places(&self, key: &str) -> Arc<Semaphore> {
        let mut all = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(key).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.each));
        all.insert(key.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_key_waits_for_its_own_work_only() {
        let shares = Shares::new(2);
        let mut taken = Vec::new();
        for _ in 0..2 {
            taken.push(shares.place("a").now_or_never().unwrap());
        }
        assert!(shares.place("a").now_or_never().is_none());
        assert!(shares.place("b").now_or_never().is_some());
        taken.pop();
        assert!(shares.place("a").now_or_never().is_some());
        taken.clear();
        assert!(shares.place("c").now_or_never().is_some());
        assert_eq!(shares.keys.lock().unwrap().len(), 1, "who has no work is forgotten");
    }

    #[tokio::test]
    async fn work_of_one_place_is_done_one_after_another() {
        let ports = Shares::one_each();
        let first = ports.place("a").await;
        let mut second = Box::pin(ports.place("a"));
        let mut third = Box::pin(ports.place("a"));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "it came later");
        let second = second.now_or_never().unwrap();
        drop(second);
        assert!(third.now_or_never().is_some());
    }
}
