//! Users of the host, one for each sandbox, as which shims run: none is anybody's else.
//!
//! Who has which is kept as symbolic links, named by number, to the sandboxes' folders. A link is made in one step, so
//! that the service and its command line do not give one user twice; one whose sandbox is gone is free.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// Number of users of sandboxes.
pub const COUNT: u32 = 65_535;

/// All users that sandboxes of this host may have.
#[derive(Debug, Clone)]
pub struct Users {
    folder: PathBuf,
    first: u32,
}

impl Users {
    /// Users from `first` on, kept in `folder`.
    pub fn open(folder: &Path, first: u32) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Error::io("make", folder))?;
        Ok(Self { folder: folder.to_owned(), first })
    }

    /// The user of the sandbox in `sandbox`, the same at each call until it is released.
    pub fn claim(&self, sandbox: &Path) -> Result<u32> {
        let start = preferred(sandbox);
        for number in (0..COUNT).map(|step| (start + step) % COUNT) {
            if self.take(number, sandbox)? {
                return self.first.checked_add(number).ok_or(Error::Users { count: number });
            }
        }
        Err(Error::Users { count: COUNT })
    }

    /// Gives the sandbox's user up, if it has one.
    pub fn release(&self, sandbox: &Path) -> Result<()> {
        let start = preferred(sandbox);
        for number in (0..COUNT).map(|step| (start + step) % COUNT) {
            match self.owner(number)? {
                Some(owner) if owner == sandbox => {
                    let link = self.link(number);
                    return fs::remove_file(&link).map_err(Error::io("remove", link));
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Tries to give user `number` to the sandbox. One who is taken by a sandbox that is gone is freed, and tried again.
    fn take(&self, number: u32, sandbox: &Path) -> Result<bool> {
        let link = self.link(number);
        loop {
            match symlink(sandbox, &link) {
                Ok(()) => return Ok(true),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("make", link)(e)),
            }
            match self.owner(number)? {
                Some(owner) if owner == sandbox => return Ok(true),
                Some(owner) if owner.exists() => return Ok(false),
                Some(_) => files::remove(&link)?,
                None => {}
            }
        }
    }

    fn owner(&self, number: u32) -> Result<Option<PathBuf>> {
        let link = self.link(number);
        match fs::read_link(&link) {
            Ok(owner) => Ok(Some(owner)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", link)(e)),
        }
    }

    fn link(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }
}

/// Where to begin to look, so that most are found at once.
fn preferred(sandbox: &Path) -> u32 {
    let mut hasher = DefaultHasher::new();
    sandbox.hash(&mut hasher);
    (hasher.finish() % u64::from(COUNT)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_has_a_user_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let users = Users::open(&folder.path().join("users"), 1000).unwrap();
        let sandboxes: Vec<_> = (0..20).map(|n| folder.path().join(format!("s{n}"))).collect();
        sandboxes.iter().for_each(|sandbox| fs::create_dir(sandbox).unwrap());
        let claim = || sandboxes.iter().map(|sandbox| users.claim(sandbox).unwrap()).collect::<Vec<_>>();
        let mut first = claim();
        assert_eq!(first, claim(), "the same at each call");
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 20);
        assert!(first.iter().all(|user| *user >= 1000));
    }

    #[test]
    fn a_user_whose_sandbox_is_gone_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let users = Users::open(&folder.path().join("users"), 1000).unwrap();
        let (gone, new) = (folder.path().join("gone"), folder.path().join("new"));
        fs::create_dir(&new).unwrap();
        let number = preferred(&new);
        symlink(&gone, users.link(number)).unwrap();
        assert_eq!(users.claim(&new).unwrap(), 1000 + number);
        users.release(&new).unwrap();
        users.release(&new).unwrap();
        assert_eq!(users.owner(number).unwrap(), None);
    }
}
