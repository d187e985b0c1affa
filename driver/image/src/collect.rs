//! Removes images that have long been unused, and, while all images together take too much, those unused the longest.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image_work::Digest;

use crate::error::{Error, Result};
use crate::shelf::Shelf;

/// An image asked for more recently is kept: its container may not be known yet.
const GRACE: Duration = Duration::from_secs(600);

/// How long images are kept that no container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Longest time since one was last asked for; `None` keeps all.
    pub unused: Option<Duration>,
    /// Most bytes of all images' file systems together, those of containers included; `None` is no bound.
    pub bytes: Option<u64>,
}

/// An image that may be removed.
struct Candidate {
    id: Digest,
    file_system: PathBuf,
    last_asked_for: SystemTime,
}

/// Removes the images that `retention` does not keep at the time `now`, and returns their identifiers. `in_use` tells whether a
/// container has a file system. The caller sees to it that none is asked for meanwhile.
pub(crate) fn collect(
    shelf: &Shelf,
    retention: Retention,
    now: SystemTime,
    in_use: impl Fn(&Path) -> bool,
) -> Result<Vec<Digest>> {
    remove_nameless(shelf, now, &in_use)?;
    let mut candidates = candidates(shelf)?;
    candidates.retain(|candidate| !in_use(&candidate.file_system));
    candidates.sort_by_key(|candidate| candidate.last_asked_for);
    let mut removed = Vec::new();
    for candidate in candidates {
        let unused = now.duration_since(candidate.last_asked_for).unwrap_or_default();
        let is_old = retention.unused.is_some_and(|most| unused > most);
        if unused > GRACE && (is_old || takes_more_than(shelf, retention.bytes)?) {
            shelf.remove(&candidate.id, &in_use)?;
            removed.push(candidate.id);
        }
    }
    Ok(removed)
}

/// One for each image; several references may name it.
fn candidates(shelf: &Shelf) -> Result<Vec<Candidate>> {
    let mut found: HashMap<Digest, Candidate> = HashMap::new();
    for (path, record) in shelf.records()? {
        let last_asked_for = modified(&path)?;
        let file_system = shelf.rootfs_path(&record.chain);
        let candidate = Candidate { id: record.config.clone(), file_system, last_asked_for };
        let known = found.entry(record.config).or_insert(candidate);
        known.last_asked_for = known.last_asked_for.max(last_asked_for);
    }
    Ok(found.into_values().collect())
}

/// Removes file systems without an image: their containers outlived it, or a crash prevented its record.
fn remove_nameless(shelf: &Shelf, now: SystemTime, in_use: &impl Fn(&Path) -> bool) -> Result<()> {
    let records = shelf.records()?;
    let named: HashSet<_> = records.iter().map(|(_, record)| shelf.rootfs_path(&record.chain)).collect();
    for path in shelf.file_systems()? {
        let age = now.duration_since(modified(&path)?).unwrap_or_default();
        if !named.contains(&path) && !in_use(&path) && age > GRACE {
            match chain_named_by(&path) {
                Some(chain) => shelf.remove_file_system(&chain)?,
                None => fs::remove_file(&path).map_err(Error::io("remove", &path))?,
            }
        }
    }
    Ok(())
}

fn takes_more_than(shelf: &Shelf, bytes: Option<u64>) -> Result<bool> {
    let Some(most) = bytes else { return Ok(false) };
    let size = |path: PathBuf| fs::metadata(&path).map(|found| found.len()).map_err(Error::io("find", path));
    let taken: u64 = shelf.file_systems()?.into_iter().map(size).sum::<Result<_>>()?;
    Ok(taken > most)
}

/// The digest of the layers that a file system's name has.
fn chain_named_by(file_system: &Path) -> Option<Digest> {
    Digest::from_hex(file_system.file_stem()?.to_str()?).ok()
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).map_err(Error::io("find", path))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::options::{PullPolicy, RegistryOptions};
    use crate::reference::ImageReference;
    use crate::store::{InUse, Store};
    use crate::worker::WorkerOptions;

    const HOUR: Duration = Duration::from_secs(3600);
    const BYTES: u64 = 1000;

    struct Images {
        _folder: tempfile::TempDir,
        store: Store,
        now: SystemTime,
    }

    impl Images {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store =
                Store::open(folder.path().to_owned(), RegistryOptions::default(), WorkerOptions::none());
            let store = store.unwrap();
            Self { _folder: folder, store, now: SystemTime::now() }
        }

        /// An image that was last asked for so many hours ago.
        fn add(&self, name: &str, hours: u32) {
            self.store.shelf().add_test_image(
                &format!("r.io/{name}:1"),
                name,
                name,
                &vec![0; BYTES as usize],
            );
            let record = self.store.shelf().record_path(&name_of(name));
            let used = self.now - HOUR * hours;
            fs::File::options().write(true).open(record).unwrap().set_modified(used).unwrap();
        }

        fn collect(&self, unused: Option<Duration>, bytes: Option<u64>, used: &[&str]) -> Vec<Digest> {
            let used = used.iter().map(|name| self.file_system(name)).collect();
            let retention = Retention { unused, bytes };
            self.store.collect(retention, self.now, self.in_use(used)).unwrap()
        }

        fn in_use(&self, recorded: HashSet<PathBuf>) -> InUse {
            self.store.in_use(|| Ok::<_, Error>(recorded)).unwrap()
        }

        fn file_system(&self, name: &str) -> PathBuf {
            self.store.shelf().rootfs_path(&Digest::of(name.as_bytes()))
        }
    }

    fn name_of(name: &str) -> String {
        format!("r.io/{name}:1")
    }

    fn ids(names: &[&str]) -> Vec<Digest> {
        names.iter().map(|name| Digest::of(name.as_bytes())).collect()
    }

    #[test]
    fn what_was_not_asked_for_in_time_goes_unless_a_container_has_it() {
        let images = Images::new();
        [("old", 50), ("used", 60), ("young", 10)].into_iter().for_each(|(name, age)| images.add(name, age));
        assert_eq!(images.collect(None, None, &[]), []);
        assert_eq!(images.collect(Some(HOUR * 48), None, &["used"]), ids(&["old"]));
        assert!(!images.file_system("old").exists() && images.file_system("used").exists());
        assert!(
            images.store.shelf().record(&name_of("old")).is_none()
                && images.store.shelf().record(&name_of("young")).is_some()
        );
        assert_eq!(images.collect(Some(HOUR * 48), None, &[]), ids(&["used"]));
    }

    #[test]
    fn the_longest_unused_go_until_the_rest_fits() {
        let images = Images::new();
        for (name, age) in [("a", 40), ("b", 50), ("c", 10), ("used", 60), ("just", 0)] {
            images.add(name, age);
        }
        assert_eq!(images.collect(None, Some(3 * BYTES), &["used"]), ids(&["b", "a"]));
        assert_eq!(images.collect(None, Some(3 * BYTES), &["used"]), []);
        // What was asked for a moment ago stays, though it does not fit.
        assert_eq!(images.collect(None, Some(0), &["used"]), ids(&["c"]));
        assert!(images.file_system("just").exists());
    }

    #[test]
    fn file_systems_without_an_image_go() {
        let images = Images::new();
        images.add("a", 1);
        let nameless = images.file_system("nameless");
        fs::write(&nameless, "").unwrap();
        images.collect(None, None, &[]);
        assert!(nameless.exists(), "it may be about to get its name");
        let later = Images { now: images.now + HOUR, ..images };
        later.collect(None, None, &["nameless"]);
        assert!(nameless.exists(), "a container has it");
        later.collect(None, None, &[]);
        assert!(!nameless.exists() && later.file_system("a").exists());
    }

    #[tokio::test]
    async fn nothing_goes_while_an_image_is_asked_for() {
        let images = Images::new();
        images.add("old", 50);
        let pulling = images.store.asking().await;
        let retention = Retention { unused: Some(HOUR), bytes: None };
        let collected = images.store.collect(retention, images.now, images.in_use(HashSet::new()));
        assert!(matches!(collected, Err(Error::Busy)), "{collected:?}");
        drop(pulling);
        assert_eq!(images.collect(Some(HOUR), None, &[]), ids(&["old"]));
    }

    #[tokio::test]
    async fn a_slow_registry_keeps_no_image_from_being_collected() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = silent.local_addr().unwrap();
        let images = Images::new();
        images.add("old", 50);
        let reference = ImageReference::parse(&format!("{registry}/app:1"), None).unwrap();
        let pull = images.store.image(&reference, PullPolicy::Always, None, images.store.progress());
        let meanwhile = async {
            let _asked = silent.accept().await.unwrap();
            images.collect(Some(HOUR), None, &[])
        };
        tokio::select! {
            pulled = pull => panic!("nobody answers: {pulled:?}"),
            collected = meanwhile => assert_eq!(collected, ids(&["old"])),
        }
    }

    #[tokio::test]
    async fn what_has_been_given_out_stays_until_it_is_dropped() {
        let images = Images::new();
        images.add("app", 50);
        let reference = ImageReference::parse(&name_of("app"), None).unwrap();
        let progress = images.store.progress();
        let image = images.store.image(&reference, PullPolicy::Never, None, progress).await.unwrap();
        let later = Images { now: images.now + HOUR * 2, ..images };
        assert_eq!(later.collect(Some(HOUR), None, &[]), []);
        later.store.remove(&image.id, later.in_use(HashSet::new())).unwrap();
        assert!(image.rootfs.exists(), "only its name goes");
        let rootfs = image.rootfs.clone();
        drop(image);
        later.collect(Some(HOUR), None, &[]);
        assert!(!rootfs.exists());
    }

    #[tokio::test]
    async fn what_is_asked_for_is_used() {
        let images = Images::new();
        images.add("old", 50);
        let reference = ImageReference::parse(&name_of("old"), None).unwrap();
        let progress = images.store.progress();
        drop(images.store.image(&reference, PullPolicy::Never, None, progress).await.unwrap());
        assert_eq!(images.collect(Some(HOUR), None, &[]), []);
    }
}
