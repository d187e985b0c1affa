use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::{OwnedMutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::digest::{Digest, sum_of};
use crate::error::{Error, Result};
use crate::keyed_lock::KeyedLock;
use crate::layers::Layers;
use crate::options::{Credentials, CredentialsOwner, PullPolicy, RegistryOptions};
use crate::progress::Progress;
use crate::pull::Remote;
use crate::reference::ImageReference;

/// Images on this host. Below its folder are `rootfs` with file systems and `config` with configurations, both by
/// digest, `sums` with the digest of each file system as it was made, `refs` with what each reference was last found to
/// name, and `tmp`.
pub struct Store {
    folder: PathBuf,
    options: RegistryOptions,
    /// Taken while an image is made, by its origin: a registry with a manifest's digest, or an archive's name. And while its file
    /// system is published, by the digest of its layers.
    making: KeyedLock,
    /// Read while an image is asked for, written while images are collected.
    askers: RwLock<()>,
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
    /// Where it came from.
    pub source: ImageSource,
}

/// The image that a reference, or an archive's name, was found to name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSource {
    pub(crate) reference: String,
    #[serde(default)]
    pub(crate) origin: Origin,
    /// The digest of its manifest.
    pub(crate) manifest: Digest,
    /// The digest of its configuration, the image's identifier.
    pub(crate) config: Digest,
    /// The digest of its layers, the file system's name.
    pub(crate) chain: Digest,
    /// Whether a user's credentials opened it: its registry is asked whether it is for others. So it is where an earlier version
    /// has not recorded that.
    #[serde(default = "yes")]
    pub(crate) is_private: bool,
}

fn yes() -> bool {
    true
}

impl ImageSource {
    /// The reference, or the archive's name.
    pub fn name(&self) -> &str {
        &self.reference
    }

    /// The registry, if it came from one.
    pub fn registry(&self) -> Option<String> {
        let reference = ImageReference::parse(&self.reference, None).ok();
        reference.filter(|_| self.origin == Origin::Registry).map(|image| image.registry().to_owned())
    }
}

/// What becomes of a file system that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Kept,
    Replaced,
}

/// Where an image came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// A registry, as its reference says.
    #[default]
    Registry,
    /// An archive of that name.
    Archive,
}

impl Store {
    /// Opens the store in `folder`, made if there is none. Several processes may have it open.
    pub fn open(folder: PathBuf, options: RegistryOptions) -> Result<Self> {
        for name in ["rootfs", "sums", "config", "refs", "tmp"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        }
        Ok(Self {
            folder,
            options,
            making: KeyedLock::default(),
            askers: RwLock::default(),
            progress: Progress::default(),
        })
    }

    /// How far this store's pulls have come together.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Removes what a crash left half done. Makes a pull fail that another process has under way.
    pub fn remove_leftovers(&self) -> Result<()> {
        let temporary = self.folder.join("tmp");
        fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
        fs::create_dir(&temporary).map_err(Error::io("make", &temporary))
    }

    /// The image that `reference` names, fetched as `policy` says. `progress` hears how far that has come.
    pub async fn image(
        &self,
        reference: &ImageReference,
        policy: PullPolicy,
        credentials: Option<&Credentials>,
        progress: &Progress,
    ) -> Result<Image> {
        let _asking = self.asking().await;
        let name = reference.to_string();
        let present = self.find(&name);
        if present.is_some() {
            self.mark_used(&name)?;
        }
        match (policy, present) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) if !image.source.is_private => {
                Ok(image)
            }
            (PullPolicy::Never, None) => Err(Error::NotPresent(name)),
            (PullPolicy::Never, Some(image)) => self.shown(image, reference, credentials).await,
            (PullPolicy::Always | PullPolicy::IfNotPresent, _) => {
                self.pull(reference, credentials, progress).await
            }
        }
    }

    /// A private image that is here, if its registry shows it to who asks.
    async fn shown(
        &self,
        image: Image,
        reference: &ImageReference,
        credentials: Option<&Credentials>,
    ) -> Result<Image> {
        let remote = Remote::new(reference, &self.options, credentials, self.progress.clone());
        let manifest = remote.manifest().await?;
        if manifest.digest == image.source.manifest {
            Ok(image)
        } else {
            Err(Error::NotPresent(reference.to_string()))
        }
    }

    /// Waits for others who make what has this name, and keeps them waiting.
    pub(crate) async fn making(&self, name: &str) -> OwnedMutexGuard<()> {
        self.making.lock(name).await
    }

    /// Keeps images from being collected.
    pub(crate) async fn asking(&self) -> RwLockReadGuard<'_, ()> {
        self.askers.read().await
    }

    /// Keeps images from being asked for. `None` if one is asked for at the moment.
    pub(crate) fn alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.askers.try_write().ok()
    }

    /// Marks an image as used now: the age of its record is the time since its last use.
    pub(crate) fn mark_used(&self, name: &str) -> Result<()> {
        let path = self.record_path(name);
        let marked = File::options().write(true).open(&path);
        marked.and_then(|file| file.set_modified(SystemTime::now())).map_err(Error::io("mark as used", path))
    }

    /// The image that `name`, a reference or an archive's name, was last found to name, if it is in the store.
    pub(crate) fn find(&self, name: &str) -> Option<Image> {
        self.load(&self.record(name)?).ok()
    }

    /// Removes the image whose configuration has this digest, with all references to it. Its file system stays where another
    /// image has the same, or where `in_use` says that a container has it. Idempotent: succeeds if the image is absent.
    pub fn remove(&self, id: &Digest, in_use: impl Fn(&Path) -> bool) -> Result<()> {
        let records = self.records()?;
        let (leaving, staying): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|(_, record)| record.config == *id);
        for (path, record) in leaving {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            let rootfs = self.rootfs_path(&record.chain);
            if staying.iter().all(|(_, other)| other.chain != record.chain) && !in_use(&rootfs) {
                self.remove_file_system(&record.chain)?;
            }
        }
        remove_if_there(&self.config_path(id))
    }

    /// All references, with the files that hold them. One that cannot be read is left out.
    pub(crate) fn records(&self) -> Result<Vec<(PathBuf, ImageSource)>> {
        let folder = self.folder.join("refs");
        let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        let read = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((path, record))
        });
        Ok(read.collect())
    }

    /// All file systems.
    pub(crate) fn file_systems(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("rootfs");
        let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        entries.map(|entry| Ok(entry.map_err(Error::io("read", &folder))?.path())).collect()
    }

    /// Where to ask for an image, in order: its registry is the last. With credentials only the registry is asked, for which they
    /// are meant.
    pub(crate) fn sources(
        &self,
        reference: &ImageReference,
        credentials: Option<&Credentials>,
    ) -> Vec<ImageReference> {
        let mirrors = self.options.mirrors_of(reference.registry()).filter(|_| credentials.is_none());
        mirrors.map(|mirror| reference.at(mirror)).chain([reference.clone()]).collect()
    }

    async fn pull(
        &self,
        reference: &ImageReference,
        credentials: Option<&Credentials>,
        progress: &Progress,
    ) -> Result<Image> {
        let mut sources = self.sources(reference, credentials).into_iter().peekable();
        while let Some(source) = sources.next() {
            let remote = Remote::new(&source, &self.options, credentials, progress.clone());
            let is_private = credentials.is_some_and(|own| own.owner == CredentialsOwner::User);
            match self.pull_from(reference, &remote, is_private).await {
                Err(e) if sources.peek().is_some() => {
                    tracing::warn!(image = %reference, mirror = source.asked(), error = %e, "mirror is passed over");
                }
                last => return last,
            }
        }
        Err(Error::NotFound(reference.to_string()))
    }

    async fn pull_from(
        &self,
        reference: &ImageReference,
        remote: &Remote<'_>,
        is_private: bool,
    ) -> Result<Image> {
        let manifest = remote.manifest().await?;
        let digest = manifest.digest.clone();
        // A slow registry must not keep those waiting who ask another one for the same image.
        let _making = self.making(&format!("{} {digest}", remote.registry())).await;
        let name = reference.to_string();
        if let Some(record) = self.record(&name).filter(|record| record.manifest == digest)
            && let Ok(image) = self.load(&record)
        {
            if record.is_private && !is_private {
                // It was open to who has no credentials of his own.
                self.record_as(&ImageSource { is_private, ..record })?;
            }
            return Ok(image);
        }
        let (bytes, configuration) = remote.configuration(&manifest).await?;
        let record = ImageSource {
            reference: name,
            origin: Origin::Registry,
            manifest: digest,
            config: Digest::of(&bytes),
            chain: chain(&configuration),
            is_private,
        };
        if !self.rootfs_path(&record.chain).exists() {
            let work = self.work_folder()?;
            let layers = remote.layers(manifest, &configuration, work.path()).await?;
            self.make(layers, &work, &record.chain).await?;
        }
        self.keep(&record, &bytes)
    }

    /// A temporary folder.
    pub(crate) fn work_folder(&self) -> Result<TempDir> {
        let temporary = self.folder.join("tmp");
        tempfile::tempdir_in(&temporary).map_err(Error::io("make a folder in", temporary))
    }

    /// Makes the file system of an image, in place of an existing one.
    pub(crate) async fn make(&self, layers: Layers, work: &TempDir, chain: &Digest) -> Result<()> {
        let out = work.path().join("rootfs");
        layers.file_system(&out).await?;
        let made = out.clone();
        let sum = tokio::task::spawn_blocking(move || sum_of(&made)).await;
        let sum = sum.map_err(|_| Error::Lost(chain.to_string()))?.map_err(Error::io("read", &out))?;
        // Nobody else may come in between: the sum is that of this file system. It comes first, so that no crash leaves a file
        // system without one.
        let _publishing = self.making(&chain.to_string()).await;
        self.write(&self.sum_path(chain), sum.to_string().as_bytes())?;
        publish(&out, &self.rootfs_path(chain))
    }

    /// Writes the record and the configuration of an image whose file system exists.
    pub(crate) fn keep(&self, record: &ImageSource, configuration: &[u8]) -> Result<Image> {
        self.write(&self.config_path(&record.config), configuration)?;
        self.record_as(record)?;
        self.load(record)
    }

    fn record_as(&self, record: &ImageSource) -> Result<()> {
        let text = serde_json::to_vec(record).unwrap_or_default();
        self.write(&self.record_path(&record.reference), &text)
    }

    /// Removes a file system with its sum.
    pub(crate) fn remove_file_system(&self, chain: &Digest) -> Result<()> {
        remove_if_there(&self.rootfs_path(chain))?;
        remove_if_there(&self.sum_path(chain))
    }

    pub(crate) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    fn record(&self, name: &str) -> Option<ImageSource> {
        serde_json::from_slice(&fs::read(self.record_path(name)).ok()?).ok()
    }

    fn load(&self, record: &ImageSource) -> Result<Image> {
        let path = self.config_path(&record.config);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let configuration = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Invalid { image: record.reference.clone(), reason: e.to_string() })?;
        let rootfs = self.rootfs_path(&record.chain);
        let size = fs::metadata(&rootfs).map_err(Error::io("find", &rootfs))?.len();
        Ok(Image { id: record.config.clone(), configuration, rootfs, size, source: record.clone() })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.folder.join("tmp");
        let mut file =
            tempfile::NamedTempFile::new_in(&temporary).map_err(Error::io("make a file in", &temporary))?;
        io_write(&mut file, bytes).map_err(Error::io("write", path))?;
        file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
        settle(path)
    }

    pub(crate) fn rootfs_path(&self, chain: &Digest) -> PathBuf {
        self.folder.join("rootfs").join(format!("{}.squashfs", chain.hex()))
    }

    pub(crate) fn sum_path(&self, chain: &Digest) -> PathBuf {
        self.folder.join("sums").join(chain.hex())
    }

    fn config_path(&self, config: &Digest) -> PathBuf {
        self.folder.join("config").join(format!("{}.json", config.hex()))
    }

    pub(crate) fn record_path(&self, name: &str) -> PathBuf {
        let name = Digest::of(name.as_bytes());
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

/// Gives a finished file its name once its content is on disk.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let synced = File::open(from).and_then(|file| file.sync_all());
    synced.map_err(Error::io("write", from))?;
    fs::rename(from, to).map_err(Error::io("write", to))?;
    settle(to)
}

/// Waits until a file's name is on disk: records of containers rely on their images.
fn settle(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("write", folder))
}

/// OCI's chain identifier: what all layers together are named by (image-spec, `config.md`, "Layer ChainID").
pub(crate) fn chain(configuration: &ImageConfiguration) -> Digest {
    chain_of(configuration.rootfs().diff_ids())
}

fn chain_of(diff_ids: &[String]) -> Digest {
    let mut ids = diff_ids.iter();
    let first = ids.next().cloned().unwrap_or_default();
    let whole =
        ids.fold(first, |chain, diff_id| Digest::of(format!("{chain} {diff_id}").as_bytes()).to_string());
    whole.parse().unwrap_or_else(|_| Digest::of(whole.as_bytes()))
}

#[cfg(test)]
impl Store {
    /// An image whose configuration and layers have the digests of these texts.
    pub(crate) fn add_test_image(&self, reference: &str, config: &str, chain: &str, file_system: &[u8]) {
        let reference = ImageReference::parse(reference, None).unwrap();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let record = ImageSource {
            reference: reference.to_string(),
            origin: Origin::Registry,
            manifest: digest(reference.to_string().as_str()),
            config: digest(config),
            chain: digest(chain),
            is_private: false,
        };
        let configuration =
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        fs::write(self.config_path(&record.config), configuration).unwrap();
        fs::write(self.rootfs_path(&record.chain), file_system).unwrap();
        self.write(&self.record_path(&record.reference), &serde_json::to_vec(&record).unwrap()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_depends_on_every_layer_and_their_order() {
        let ids: Vec<_> = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes).to_string()).to_vec();
        assert_eq!(chain_of(&ids[..1]).to_string(), ids[0]);
        let expected = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
        assert_eq!(chain_of(&ids[..2]), expected);
        assert_ne!(chain_of(&[ids[1].clone(), ids[0].clone()]), expected);
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
        let add = |reference, config, chain| store.add_test_image(reference, config, chain, b"");
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
        let error = store.image(&reference, PullPolicy::Never, None, store.progress()).await.unwrap_err();
        assert!(matches!(error, Error::NotPresent(_)), "{error}");
    }
}
