//! Images as files. Below the shelf's folder are `rootfs` with file systems and `config` with configurations, both by digest, `sums`
//! with the digest of each file system as it was made, `refs` with what each reference was last found to name, and `tmp`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image_work::Digest;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::configuration::configuration;
use crate::error::{Error, Result};
use crate::holds::Hold;
use crate::reference::ImageReference;

/// The folder with the images of this host.
pub(crate) struct Shelf(PathBuf);

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
    /// Keeps its file system here.
    pub hold: Hold,
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
    /// Whether anybody may have it: it came from a registry, and no user's own credentials opened it.
    fn is_open(&self) -> bool {
        self.origin == Origin::Registry && !self.is_private
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.reference, self.origin, &self.manifest) == (&other.reference, other.origin, &other.manifest)
    }

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

/// What becomes of a file system that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays.
    Kept,
    /// The new one takes its place.
    Replaced,
}

impl Shelf {
    /// The shelf in `folder`, made if there is none. Several processes may have it open.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        for name in ["rootfs", "sums", "config", "refs", "tmp"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        }
        Ok(Self(folder))
    }

    /// Removes what a crash left half done. Makes a pull fail that another process has under way.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        let temporary = self.0.join("tmp");
        fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
        fs::create_dir(&temporary).map_err(Error::io("make", &temporary))
    }

    /// Marks an image as used now: the age of its record is the time since its last use.
    pub(crate) fn mark_used(&self, name: &str) -> Result<()> {
        let path = self.record_path(name);
        let marked = File::options().write(true).open(&path);
        marked.and_then(|file| file.set_modified(SystemTime::now())).map_err(Error::io("mark as used", path))
    }

    /// Removes the image whose configuration has this digest, with all references to it. Its file system stays where another
    /// image has the same, or where `in_use` says that a container has it. Idempotent: succeeds if the image is absent.
    pub(crate) fn remove(&self, id: &Digest, in_use: impl Fn(&Path) -> bool) -> Result<()> {
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
        let folder = self.0.join("refs");
        let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        let read = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((path, record))
        });
        Ok(read.collect())
    }

    /// Whether an image may have a file system that is here although nobody has shown its layers: an image that is open to all has
    /// it, or this very image. Digests of layers are no secret, and do not open what is in somebody's layers.
    pub(crate) fn may_share(&self, image: &ImageSource) -> Result<bool> {
        let shows = |known: &ImageSource| known.is_open() || known.is_same(image);
        let is_here = self.rootfs_path(&image.chain).exists();
        let mut records = self.records()?.into_iter().map(|(_, known)| known);
        Ok(is_here && records.any(|known| known.chain == image.chain && shows(&known)))
    }

    /// All file systems.
    pub(crate) fn file_systems(&self) -> Result<Vec<PathBuf>> {
        let folder = self.0.join("rootfs");
        let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        entries.map(|entry| Ok(entry.map_err(Error::io("read", &folder))?.path())).collect()
    }

    /// Whether the file system of these layers is here.
    pub(crate) fn has(&self, chain: &Digest) -> bool {
        self.rootfs_path(chain).exists() && self.sum_path(chain).exists()
    }

    /// A temporary folder.
    pub(crate) fn work_folder(&self) -> Result<TempDir> {
        let temporary = self.0.join("tmp");
        tempfile::tempdir_in(&temporary).map_err(Error::io("make a folder in", temporary))
    }

    /// Gives a finished file system its name, in place of an existing one. Its `sum` comes first, so that no crash leaves a file
    /// system without one.
    pub(crate) fn publish(&self, made: &Path, chain: &Digest, sum: &Digest) -> Result<()> {
        self.write(&self.sum_path(chain), sum.to_string().as_bytes())?;
        publish(made, &self.rootfs_path(chain))
    }

    /// Writes the record and the configuration of an image whose file system exists.
    pub(crate) fn keep(&self, record: &ImageSource, configuration: &[u8]) -> Result<Image> {
        self.write(&self.config_path(&record.config), configuration)?;
        self.record_as(record)?;
        self.load(record)
    }

    pub(crate) fn record_as(&self, record: &ImageSource) -> Result<()> {
        let text = serde_json::to_vec(record).unwrap_or_default();
        self.write(&self.record_path(&record.reference), &text)
    }

    /// Removes a file system with its sum.
    pub(crate) fn remove_file_system(&self, chain: &Digest) -> Result<()> {
        remove_if_there(&self.rootfs_path(chain))?;
        remove_if_there(&self.sum_path(chain))
    }

    /// What `name` was last found to name.
    pub(crate) fn record(&self, name: &str) -> Option<ImageSource> {
        serde_json::from_slice(&fs::read(self.record_path(name)).ok()?).ok()
    }

    /// The image that a record names, if all of it is here.
    pub(crate) fn load(&self, record: &ImageSource) -> Result<Image> {
        let path = self.config_path(&record.config);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let configuration = configuration(&bytes)
            .map_err(|e| Error::Invalid { image: record.reference.clone(), reason: e.to_string().into() })?;
        let rootfs = self.rootfs_path(&record.chain);
        let size = fs::metadata(&rootfs).map_err(Error::io("find", &rootfs))?.len();
        Ok(Image {
            id: record.config.clone(),
            configuration,
            rootfs,
            size,
            source: record.clone(),
            hold: Hold::default(),
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.0.join("tmp");
        let mut file =
            tempfile::NamedTempFile::new_in(&temporary).map_err(Error::io("make a file in", &temporary))?;
        io_write(&mut file, bytes).map_err(Error::io("write", path))?;
        file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
        settle(path)
    }

    pub(crate) fn rootfs_path(&self, chain: &Digest) -> PathBuf {
        self.0.join("rootfs").join(format!("{}.squashfs", chain.hex()))
    }

    pub(crate) fn sum_path(&self, chain: &Digest) -> PathBuf {
        self.0.join("sums").join(chain.hex())
    }

    pub(crate) fn config_path(&self, config: &Digest) -> PathBuf {
        self.0.join("config").join(format!("{}.json", config.hex()))
    }

    pub(crate) fn record_path(&self, name: &str) -> PathBuf {
        let name = Digest::of(name.as_bytes());
        self.0.join("refs").join(format!("{}.json", name.hex()))
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
impl Shelf {
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
        let shelf = Shelf::open(folder.path().to_owned()).unwrap();
        assert!(left.exists());
        shelf.remove_leftovers().unwrap();
        assert!(!left.exists() && folder.path().join("tmp").exists());
    }

    #[test]
    fn only_what_is_open_to_all_is_shared_with_who_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path().to_owned()).unwrap();
        shelf.add_test_image("r.io/a:1", "a", "layers", b"");
        let known = shelf.records().unwrap().remove(0).1;
        let named =
            ImageSource { reference: "evil.io/a:1".into(), manifest: Digest::of(b"m"), ..known.clone() };
        assert!(shelf.may_share(&named).unwrap(), "it is open to all");
        for (origin, is_private) in [(Origin::Registry, true), (Origin::Archive, false)] {
            let closed = ImageSource { origin, is_private, ..known.clone() };
            shelf.record_as(&closed).unwrap();
            assert!(!shelf.may_share(&named).unwrap(), "{closed:?}");
            assert!(shelf.may_share(&closed).unwrap(), "{closed:?}");
        }
        fs::remove_file(shelf.rootfs_path(&known.chain)).unwrap();
        assert!(!shelf.may_share(&known).unwrap(), "it is not here");
    }

    #[test]
    fn a_removed_image_leaves_what_others_need() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path().to_owned()).unwrap();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let add = |reference, config, chain| shelf.add_test_image(reference, config, chain, b"");
        add("r.io/a:1", "one", "shared");
        add("r.io/a:2", "one", "shared");
        add("r.io/b:1", "two", "shared");
        add("r.io/c:1", "three", "used");
        shelf.remove(&digest("one"), |_| false).unwrap();
        assert_eq!(shelf.records().unwrap().len(), 2);
        assert!(!shelf.config_path(&digest("one")).exists() && shelf.rootfs_path(&digest("shared")).exists());
        shelf.remove(&digest("two"), |_| false).unwrap();
        assert!(!shelf.rootfs_path(&digest("shared")).exists());
        let used = shelf.rootfs_path(&digest("used"));
        shelf.remove(&digest("three"), |path| path == used).unwrap();
        assert!(used.exists() && shelf.records().unwrap().is_empty());
        shelf.remove(&digest("never here"), |_| false).unwrap();
    }
}
