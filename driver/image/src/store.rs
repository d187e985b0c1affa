use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::options::{Credentials, PullPolicy, RegistryOptions};
use crate::progress::Progress;
use crate::pull::Remote;
use crate::reference::ImageReference;

/// Images on this host. Below its folder are `rootfs` with file systems and `config` with configurations, both by
/// digest, `refs` with what each reference was last found to name, and `tmp`.
pub struct Store {
    folder: PathBuf,
    options: RegistryOptions,
    /// One lock for each file system that is being made.
    making: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
    progress: Progress,
}

/// An image that is on this host.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its configuration, the image's identifier for Docker.
    pub id: Digest,
    /// Its configuration.
    pub configuration: ImageConfiguration,
    /// Its read-only squashfs file.
    pub rootfs: PathBuf,
    /// Size of that file in bytes.
    pub size: u64,
}

/// What a reference named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    reference: String,
    manifest: Digest,
    config: Digest,
    chain: Digest,
}

impl Store {
    /// Opens the store in `folder`, made if there is none. Several processes may have it open.
    pub fn open(folder: PathBuf, options: RegistryOptions) -> Result<Self> {
        for name in ["rootfs", "config", "refs", "tmp"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        }
        Ok(Self { folder, options, making: Mutex::default(), progress: Progress::default() })
    }

    /// How far this store's pulls have come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Removes what a crash left half done. A pull that another process is about fails.
    pub fn remove_leftovers(&self) -> Result<()> {
        let temporary = self.folder.join("tmp");
        fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
        fs::create_dir(&temporary).map_err(Error::io("make", &temporary))
    }

    /// The image that `reference` names, fetched as `policy` says.
    pub async fn image(
        &self,
        reference: &ImageReference,
        policy: PullPolicy,
        credentials: Option<&Credentials>,
    ) -> Result<Image> {
        let present = self.find(reference);
        match (policy, present) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) => Ok(image),
            (PullPolicy::Never, None) => Err(Error::NotPresent(reference.to_string())),
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => {
                self.pull(reference, credentials).await
            }
        }
    }

    /// The image that `reference` was last found to name, if it is here.
    pub fn find(&self, reference: &ImageReference) -> Option<Image> {
        let bytes = fs::read(self.record_path(reference)).ok()?;
        self.load(&serde_json::from_slice(&bytes).ok()?).ok()
    }

    /// Removes the image whose configuration has this digest, with all references to it. Its file system stays where another
    /// image has the same, or where `in_use` says that a container has it. One that is not here is as good.
    pub fn remove(&self, id: &Digest, in_use: impl Fn(&Path) -> bool) -> Result<()> {
        let records = self.records()?;
        let (leaving, staying): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|(_, record)| record.config == *id);
        for (path, record) in leaving {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            let rootfs = self.rootfs_path(&record.chain);
            if staying.iter().all(|(_, other)| other.chain != record.chain) && !in_use(&rootfs) {
                remove_if_there(&rootfs)?;
            }
        }
        remove_if_there(&self.config_path(id))
    }

    /// All references, with the files that hold them. One that cannot be read is left out.
    fn records(&self) -> Result<Vec<(PathBuf, Record)>> {
        let folder = self.folder.join("refs");
        let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        let read = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((path, record))
        });
        Ok(read.collect())
    }

    async fn pull(&self, reference: &ImageReference, credentials: Option<&Credentials>) -> Result<Image> {
        let remote = Remote::new(reference, &self.options, credentials, self.progress.clone());
        let manifest = remote.manifest().await?;
        let digest = manifest.digest.clone();
        let lock = self.lock_for(&digest);
        let _turn = lock.lock().await;
        if let Some(record) = self.record(reference).filter(|record| record.manifest == digest)
            && let Ok(image) = self.load(&record)
        {
            return Ok(image);
        }
        let (bytes, configuration) = remote.configuration(&manifest).await?;
        let record = Record {
            reference: reference.to_string(),
            manifest: digest,
            config: Digest::of(&bytes),
            chain: chain(configuration.rootfs().diff_ids()),
        };
        let rootfs = self.rootfs_path(&record.chain);
        if !rootfs.exists() {
            let work = tempfile::tempdir_in(self.folder.join("tmp"))
                .map_err(Error::io("make a folder in", self.folder.join("tmp")))?;
            let out = work.path().join("rootfs");
            remote.file_system(manifest, &configuration, work.path(), &out).await?;
            publish(&out, &rootfs)?;
        }
        self.write(&self.config_path(&record.config), &bytes)?;
        let text = serde_json::to_vec(&record).unwrap_or_default();
        self.write(&self.record_path(reference), &text)?;
        self.load(&record)
    }

    fn record(&self, reference: &ImageReference) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(reference)).ok()?).ok()
    }

    fn load(&self, record: &Record) -> Result<Image> {
        let path = self.config_path(&record.config);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let configuration = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Invalid { image: record.reference.clone(), reason: e.to_string() })?;
        let rootfs = self.rootfs_path(&record.chain);
        let size = fs::metadata(&rootfs).map_err(Error::io("find", &rootfs))?.len();
        Ok(Image { id: record.config.clone(), configuration, rootfs, size })
    }

    fn lock_for(&self, digest: &Digest) -> Arc<AsyncMutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = making.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        making.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.folder.join("tmp");
        let mut file =
            tempfile::NamedTempFile::new_in(&temporary).map_err(Error::io("make a file in", &temporary))?;
        io_write(&mut file, bytes).map_err(Error::io("write", path))?;
        file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
        Ok(())
    }

    fn rootfs_path(&self, chain: &Digest) -> PathBuf {
        self.folder.join("rootfs").join(format!("{}.squashfs", chain.hex()))
    }

    fn config_path(&self, config: &Digest) -> PathBuf {
        self.folder.join("config").join(format!("{}.json", config.hex()))
    }

    fn record_path(&self, reference: &ImageReference) -> PathBuf {
        let name = Digest::of(reference.to_string().as_bytes());
        self.folder.join("refs").join(format!("{}.json", name.hex()))
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn io_write(file: &mut tempfile::NamedTempFile, bytes: &[u8]) -> std::io::Result<()> {
    std::io::Write::write_all(file, bytes)?;
    file.as_file().sync_data()
}

/// Gives a finished file its name, once it is on disk.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let synced = File::open(from).and_then(|file| file.sync_all());
    synced.map_err(Error::io("write", from))?;
    fs::rename(from, to).map_err(Error::io("write", to))
}

/// OCI's chain identifier: what all layers together are named by (image-spec, `config.md`, "Layer ChainID").
fn chain(diff_ids: &[String]) -> Digest {
    let mut ids = diff_ids.iter();
    let first = ids.next().cloned().unwrap_or_default();
    let whole =
        ids.fold(first, |chain, diff_id| Digest::of(format!("{chain} {diff_id}").as_bytes()).to_string());
    whole.parse().unwrap_or_else(|_| Digest::of(whole.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_depends_on_every_layer_and_their_order() {
        let ids: Vec<_> = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes).to_string()).to_vec();
        assert_eq!(chain(&ids[..1]).to_string(), ids[0]);
        let expected = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
        assert_eq!(chain(&ids[..2]), expected);
        assert_ne!(chain(&[ids[1].clone(), ids[0].clone()]), expected);
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("tmp/half");
        fs::create_dir_all(&left).unwrap();
        let store = Store::open(folder.path().to_owned(), RegistryOptions::default()).unwrap();
        assert!(left.exists());
        store.remove_leftovers().unwrap();
        assert!(!left.exists() && folder.path().join("tmp").exists());
    }

    #[test]
    fn a_removed_image_leaves_what_others_need() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), RegistryOptions::default()).unwrap();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let add = |reference: &str, config: &str, chain: &str| {
            let reference = ImageReference::parse(reference, None).unwrap();
            let record = Record {
                reference: reference.to_string(),
                manifest: digest(reference.to_string().as_str()),
                config: digest(config),
                chain: digest(chain),
            };
            fs::write(store.config_path(&record.config), "{}").unwrap();
            fs::write(store.rootfs_path(&record.chain), "").unwrap();
            store.write(&store.record_path(&reference), &serde_json::to_vec(&record).unwrap()).unwrap();
        };
        add("r.io/a:1", "one", "shared");
        add("r.io/a:2", "one", "shared");
        add("r.io/b:1", "two", "shared");
        add("r.io/c:1", "three", "used");
        store.remove(&digest("one"), |_| false).unwrap();
        assert_eq!(store.records().unwrap().len(), 2);
        assert!(!store.config_path(&digest("one")).exists() && store.rootfs_path(&digest("shared")).exists());
        store.remove(&digest("two"), |_| false).unwrap();
        assert!(!store.rootfs_path(&digest("shared")).exists());
        let used = store.rootfs_path(&digest("used"));
        store.remove(&digest("three"), |path| path == used).unwrap();
        assert!(used.exists() && store.records().unwrap().is_empty());
        store.remove(&digest("never here"), |_| false).unwrap();
    }

    #[tokio::test]
    async fn never_means_never() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), RegistryOptions::default()).unwrap();
        let reference = ImageReference::parse("127.0.0.1:1/x", None).unwrap();
        let error = store.image(&reference, PullPolicy::Never, None).await.unwrap_err();
        assert!(matches!(error, Error::NotPresent(_)), "{error}");
    }
}
