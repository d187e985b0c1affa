//! Users of the host, one for each sandbox, as which shims run: none is anybody's else.
//!
//! Who has which is kept as symbolic links, named by number, to the sandboxes' folders. One whose sandbox is gone is free. The
//! service and its command line give them one after the other, so that none is given twice.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Result};
use crate::files;

/// Number of users of sandboxes.
pub const COUNT: u32 = 65_535;
/// How long one who gives or frees a user waits for another: each looks at the links and changes one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(5);

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
        let _lock = self.lock()?;
        let own = self.numbers_of(sandbox)?.into_iter().find(|number| *number < COUNT);
        let start = own.unwrap_or_else(|| preferred(sandbox));
        for number in (0..COUNT).map(|step| (start + step) % COUNT) {
            if self.take(number, sandbox)? {
                return self.first.checked_add(number).ok_or(Error::Users { count: number });
            }
        }
        Err(Error::Users { count: COUNT })
    }

    /// Gives the sandbox's user up, if it has one. An earlier release may have looked for it in another order.
    pub fn release(&self, sandbox: &Path) -> Result<()> {
        let _lock = self.lock()?;
        self.numbers_of(sandbox)?.into_iter().try_for_each(|number| files::remove(&self.link(number)))
    }

    /// All numbers that the sandbox has.
    fn numbers_of(&self, sandbox: &Path) -> Result<Vec<u32>> {
        let failed = || Error::io("read", &self.folder);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.owner(number)?.as_deref() == Some(sandbox) {
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    fn lock(&self) -> Result<Flock<File>> {
        let failed = || Error::io("lock", &self.folder);
        let mut folder = File::open(&self.folder).map_err(failed())?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            folder = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((folder, Errno::EWOULDBLOCK)) if Instant::now() < deadline => folder,
                Err((_, e)) => return Err(failed()(e.into())),
            };
            sleep(LOCK_POLL);
        }
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
    use std::collections::HashSet;

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
    fn a_user_is_found_wherever_an_earlier_release_has_put_it() {
        let folder = tempfile::tempdir().unwrap();
        let users = Users::open(&folder.path().join("users"), 1000).unwrap();
        let old = folder.path().join("old");
        fs::create_dir(&old).unwrap();
        let elsewhere = (preferred(&old) + 17) % COUNT;
        symlink(&old, users.link(elsewhere)).unwrap();
        assert_eq!(users.claim(&old).unwrap(), 1000 + elsewhere);
        // The workers have it by now.
        let last = folder.path().join("last");
        fs::create_dir(&last).unwrap();
        symlink(&last, users.link(COUNT)).unwrap();
        assert!(users.claim(&last).unwrap() < 1000 + COUNT);
        users.release(&old).unwrap();
        users.release(&last).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("users")).unwrap().count(), 0);
    }

    #[test]
    fn no_user_is_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let gone = folder.path().join("gone");
        let sandboxes: Vec<_> = (0..8).map(|n| folder.path().join(format!("s{n}"))).collect();
        sandboxes.iter().for_each(|sandbox| fs::create_dir(sandbox).unwrap());
        let users = Users::open(&path, 0).unwrap();
        for _ in 0..20 {
            // All would take the users of one that is gone.
            (0..COUNT.min(64)).for_each(|number| {
                let _ = symlink(&gone, users.link((preferred(&sandboxes[0]) + number) % COUNT));
            });
            let given: HashSet<u32> = std::thread::scope(|scope| {
                let claims = sandboxes.iter().map(|sandbox| scope.spawn(|| users.claim(sandbox).unwrap()));
                claims.collect::<Vec<_>>().into_iter().map(|claim| claim.join().unwrap()).collect()
            });
            assert_eq!(given.len(), sandboxes.len());
            sandboxes.iter().for_each(|sandbox| users.release(sandbox).unwrap());
        }
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
