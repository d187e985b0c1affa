//! Work that is done for each project a few at a time: more of its own waits, and nobody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of each project that has work.
#[derive(Debug, Clone)]
pub struct Shares {
    each: usize,
    projects: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

impl Shares {
    /// So many places for each project.
    pub fn new(each: usize) -> Self {
        Self { each, projects: Arc::default() }
    }

    /// Waits for a place of this project, which is free again once the answer is dropped.
    pub async fn place(&self, project: &str) -> Option<OwnedSemaphorePermit> {
        let places = self.places(project);
        // Nobody closes them.
        places.acquire_owned().await.ok()
    }

    fn places(&self, project: &str) -> Arc<Semaphore> {
        let mut all = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(project).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.each));
        all.insert(project.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_project_waits_for_its_own_work_only() {
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
        assert_eq!(shares.projects.lock().unwrap().len(), 1, "who has no work is forgotten");
    }
}
