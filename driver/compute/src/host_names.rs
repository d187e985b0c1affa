//! The names that this host has had. A container whose row has one of them, and whose sandbox is here, is this host's.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::kept::{find_json, write_json};

const NAME: &str = "host-names.json";

/// The name of this host, and those that it had before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNames {
    /// `[DEFAULT] host`.
    pub now: String,
    /// Those before.
    pub former: BTreeSet<String>,
}

impl HostNames {
    /// The names that are kept in `folder`, and from now on `now`.
    pub fn open(folder: &Path, now: &str) -> Result<Self> {
        let before: Option<Self> = find_json(folder, NAME)?;
        let mut former = before.as_ref().map(|names| names.former.clone()).unwrap_or_default();
        former.extend(before.iter().map(|names| names.now.clone()));
        former.remove(now);
        let names = Self { now: now.to_owned(), former };
        if before.as_ref() != Some(&names) {
            write_json(folder, NAME, &names)?;
        }
        Ok(names)
    }

    /// Forgets former names.
    pub fn forget(mut self, folder: &Path, outlived: &[String]) -> Result<()> {
        let before = self.former.len();
        self.former.retain(|name| !outlived.contains(name));
        if self.former.len() < before { write_json(folder, NAME, &self) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_names_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let names = |now| HostNames::open(folder.path(), now).unwrap().former.into_iter().collect::<Vec<_>>();
        assert!(names("a").is_empty());
        assert_eq!(names("b"), ["a"]);
        assert_eq!(names("b"), ["a"]);
        assert_eq!(names("a"), ["b"], "it has its first name again");
        let known = HostNames::open(folder.path(), "c").unwrap();
        known.forget(folder.path(), &["b".to_owned(), "x".to_owned()]).unwrap();
        assert_eq!(names("c"), ["a"]);
        std::fs::write(folder.path().join(NAME), "{").unwrap();
        assert!(HostNames::open(folder.path(), "a").is_err(), "what cannot be read is not forgotten");
    }
}
