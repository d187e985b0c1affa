//! File systems that have been given out. Whoever has one may not have recorded yet that it is in use.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The file systems that somebody holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    held: HashMap<PathBuf, Weak<()>>,
    /// Surveys under way, and what has been held since the first of them began.
    surveys: usize,
    surveyed: HashSet<PathBuf>,
}

/// Keeps a file system from being removed until it, and each clone of it, is dropped.
#[derive(Debug, Clone, Default)]
pub struct Hold(Arc<()>);

/// While it lasts, whatever is held counts as in use, though it may be dropped meanwhile.
#[derive(Debug)]
pub(crate) struct Survey(Holds);

impl Holds {
    /// Holds a file system.
    pub(crate) fn hold(&self, file_system: &Path) -> Hold {
        let mut state = self.state();
        if state.surveys > 0 {
            state.surveyed.insert(file_system.to_owned());
        }
        if let Some(hold) = state.held.get(file_system).and_then(Weak::upgrade) {
            return Hold(hold);
        }
        state.held.retain(|_, hold| hold.strong_count() > 0);
        let hold = Hold::default();
        state.held.insert(file_system.to_owned(), Arc::downgrade(&hold.0));
        hold
    }

    /// Begins a survey.
    pub(crate) fn survey(&self) -> Survey {
        let mut state = self.state();
        let held = state.held.iter().filter(|(_, hold)| hold.strong_count() > 0);
        let held: Vec<_> = held.map(|(path, _)| path.clone()).collect();
        state.surveys += 1;
        state.surveyed.extend(held);
        Survey(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Survey {
    /// Whether somebody has held it since.
    pub(crate) fn has(&self, file_system: &Path) -> bool {
        self.0.state().surveyed.contains(file_system)
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.surveys -= 1;
        if state.surveys == 0 {
            state.surveyed.clear();
        }
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
        drop(first);
        assert!(holds.survey().has(a) && !holds.survey().has(b));
        drop(second);
        assert!(!holds.survey().has(a));
        let _other = holds.hold(b);
        assert_eq!(holds.state().held.len(), 1, "who holds nothing is forgotten");
    }

    #[test]
    fn what_was_held_during_a_survey_counts_until_all_have_ended() {
        let holds = Holds::default();
        let (before, meanwhile, after) = (Path::new("/a"), Path::new("/b"), Path::new("/c"));
        let first = holds.hold(before);
        let survey = holds.survey();
        drop(first);
        drop(holds.hold(meanwhile));
        let other = holds.survey();
        assert!([before, meanwhile].iter().all(|path| survey.has(path) && other.has(path)));
        drop(survey);
        assert!(other.has(meanwhile));
        drop(other);
        drop(holds.hold(after));
        assert!(holds.state().surveyed.is_empty(), "nothing is remembered for nobody");
    }
}
