//! File systems that have been given out. Whoever has one may not have recorded yet that it is in use.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The file systems that somebody holds.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<HashMap<PathBuf, Weak<()>>>);

/// Keeps a file system from being removed until it, and each clone of it, is dropped.
#[derive(Debug, Clone, Default)]
pub struct Hold(Arc<()>);

impl Holds {
    /// Holds a file system.
    pub(crate) fn hold(&self, file_system: &Path) -> Hold {
        let mut held = self.held();
        if let Some(hold) = held.get(file_system).and_then(Weak::upgrade) {
            return Hold(hold);
        }
        held.retain(|_, hold| hold.strong_count() > 0);
        let hold = Hold::default();
        held.insert(file_system.to_owned(), Arc::downgrade(&hold.0));
        hold
    }

    /// Whether somebody holds it.
    pub(crate) fn has(&self, file_system: &Path) -> bool {
        self.held().get(file_system).is_some_and(|hold| hold.strong_count() > 0)
    }

    /// All that are held.
    pub(crate) fn all(&self) -> HashSet<PathBuf> {
        let held = self.held();
        held.iter().filter(|(_, hold)| hold.strong_count() > 0).map(|(path, _)| path.clone()).collect()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<PathBuf, Weak<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_so_until_the_last_has_dropped_it() {
        let holds = Holds::default();
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        let first = holds.hold(a);
        let second = holds.hold(a);
        assert!(holds.has(a) && !holds.has(b));
        drop(first);
        assert_eq!(holds.all(), HashSet::from([a.to_owned()]));
        drop(second);
        assert!(!holds.has(a) && holds.all().is_empty());
        let _other = holds.hold(b);
        assert_eq!(holds.held().len(), 1, "who holds nothing is forgotten");
    }
}
