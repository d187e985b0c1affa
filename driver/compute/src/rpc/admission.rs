use crate::counted::{Counted, One};
use crate::error::{Error, Result};

/// Calls of one project that are under way at one time.
const CALLS_MAX: usize = 64;
/// Operations of one project that wait or are under way.
const OPERATIONS_MAX: usize = 512;
/// Archives of one project that are on their way.
const ARCHIVES_MAX: usize = 4;
/// Commits of one project that are under way.
const COMMITS_MAX: usize = 2;

/// Bounds what each project has under way, so that none has all that this service can do at one time.
#[derive(Debug, Default)]
pub struct Admission(Counted<(String, Kind)>);

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something whose answer is waited for.
    Call,
    /// An archive whose way through this service takes several times its size of memory.
    Archive,
    /// Something that is queued.
    Operation,
    /// An image that is made of a container: it takes of this host's disk what the container has changed.
    Commit,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Call => "calls",
            Self::Archive => "archives",
            Self::Operation => "operations",
            Self::Commit => "commits",
        }
    }

    fn most(self) -> usize {
        match self {
            Self::Call => CALLS_MAX,
            Self::Archive => ARCHIVES_MAX,
            Self::Operation => OPERATIONS_MAX,
            Self::Commit => COMMITS_MAX,
        }
    }
}

/// The right to be under way, until it is dropped.
pub type Admitted = One<(String, Kind)>;

impl Admission {
    /// Lets one more of `project` be under way.
    pub fn admit(&self, project: &str, kind: Kind) -> Result<Admitted> {
        let many = || Error::TooMany { project: project.to_owned(), what: kind.name() };
        self.0.enter((project.to_owned(), kind), kind.most()).ok_or_else(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_bounded_and_no_other_notices() {
        let admission = Admission::default();
        let all: Vec<_> = (0..CALLS_MAX).map(|_| admission.admit("a", Kind::Call).unwrap()).collect();
        let refused = admission.admit("a", Kind::Call).unwrap_err().to_string();
        assert_eq!(refused, "project a has too many calls under way");
        assert!(admission.admit("b", Kind::Call).is_ok() && admission.admit("a", Kind::Operation).is_ok());
        drop(all);
        assert!(admission.admit("a", Kind::Call).is_ok());
        assert!(admission.0.is_empty());
    }
}
