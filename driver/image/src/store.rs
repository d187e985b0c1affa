use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use image_work::{Digest, sum_of};
use shares::{Place, Shares};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::collect::{Retention, collect};
use crate::error::{Error, Result};
use crate::holds::{Holds, Survey};
use crate::options::{Credentials, CredentialsOwner, PullPolicy, RegistryOptions};
use crate::progress::Progress;
use crate::pull::Remote;
use crate::reference::ImageReference;
use crate::shelf::{Existing, Image, ImageSource, Origin, Shelf, chain};
use crate::worker::{Made, Worker, WorkerOptions};

/// How long a collection waits until no image is looked for or gets its name, and how long a removal that somebody asked for.
const COLLECTION_TIMEOUT: Duration = Duration::from_secs(2);
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);
const ALONE_POLL: Duration = Duration::from_millis(1);

/// The file systems in use.
pub struct InUse {
    recorded: HashSet<PathBuf>,
    survey: Survey,
}

impl InUse {
    fn has(&self, file_system: &Path) -> bool {
        self.recorded.contains(file_system) || self.survey.has(file_system)
    }
}

/// Images on this host, and where more come from.
pub struct Store {
    shelf: Shelf,
    options: RegistryOptions,
    workers: WorkerOptions,
    /// Taken while an image is made, by its origin: a registry with a manifest's digest, or an archive's name. And while its file
    /// system is published, by the digest of its layers.
    making: Shares,
    /// Read while an image is looked for or gets its name, written while images are collected.
    askers: RwLock<()>,
    holds: Holds,
    progress: Progress,
}

impl Store {
    /// Opens the store in `folder`, made if there is none. Several processes may have it open.
    pub fn open(folder: PathBuf, options: RegistryOptions, workers: WorkerOptions) -> Result<Self> {
        Ok(Self {
            shelf: Shelf::open(folder)?,
            options,
            workers,
            making: Shares::one_each(),
            askers: RwLock::default(),
            holds: Holds::default(),
            progress: Progress::default(),
        })
    }

    /// How far this store's pulls have come together.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Most bytes of an image, and of an archive of one.
    pub fn bytes_max(&self) -> u64 {
        self.workers.limits.bytes
    }

    /// Removes what a crash left half done. Makes a pull fail that another process has under way.
    pub fn remove_leftovers(&self) -> Result<()> {
        self.shelf.remove_leftovers()
    }

    /// The image that `reference` names, fetched as `policy` says. `progress` hears how far that has come.
    pub async fn image(
        &self,
        reference: &ImageReference,
        policy: PullPolicy,
        credentials: Option<&Credentials>,
        progress: &Progress,
    ) -> Result<Image> {
        let name = reference.to_string();
        let present = self.find(&name).await?;
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
        let remote = Remote::new(reference, &self.options, credentials, self.progress.clone())?;
        let manifest = remote.manifest().await?;
        if manifest.digest == image.source.manifest {
            Ok(image)
        } else {
            Err(Error::NotPresent(reference.to_string()))
        }
    }

    /// Waits for others who make what has this name, and keeps them waiting.
    pub(crate) async fn making(&self, name: &str) -> Place {
        self.making.place(name).await
    }

    /// Keeps images from being collected. Nobody else is waited for meanwhile, and least of all a registry.
    pub(crate) async fn asking(&self) -> RwLockReadGuard<'_, ()> {
        self.askers.read().await
    }

    /// The image of this name, if it is here. It is used now.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Image>> {
        let _asking = self.asking().await;
        let Some(record) = self.shelf.record(name) else { return Ok(None) };
        self.given_out(&record)
    }

    /// The image that a record names, if all of it is here. It is used now. The caller keeps it from being collected until then.
    fn given_out(&self, record: &ImageSource) -> Result<Option<Image>> {
        let Ok(image) = self.shelf.load(record) else { return Ok(None) };
        self.shelf.mark_used(&record.reference)?;
        Ok(Some(self.held(image)))
    }

    fn held(&self, image: Image) -> Image {
        Image { hold: self.holds.hold(&image.rootfs), ..image }
    }

    /// Gives an image its name, once its file system is there, and gives it out. The caller keeps it from being collected until
    /// then.
    fn keep(&self, record: &ImageSource, configuration: &[u8]) -> Result<Image> {
        Ok(self.held(self.shelf.keep(record, configuration)?))
    }

    /// The file systems in use: those that `recorded` finds containers to have, and those that are given out. Ones that are given
    /// out while it looks count as well, though they may be recorded and let go meanwhile.
    pub fn in_use<E>(
        &self,
        recorded: impl FnOnce() -> std::result::Result<HashSet<PathBuf>, E>,
    ) -> std::result::Result<InUse, E> {
        let survey = self.holds.survey();
        Ok(InUse { recorded: recorded()?, survey })
    }

    /// Removes the images that `retention` does not keep at the time `now`, and returns their identifiers. Waits for its turn on this
    /// thread, and fails if that does not come in time: look-ups are many, and each is short.
    pub fn collect(&self, retention: Retention, now: SystemTime, in_use: InUse) -> Result<Vec<Digest>> {
        let _alone = self.alone(COLLECTION_TIMEOUT)?;
        collect(&self.shelf, retention, now, |path| in_use.has(path))
    }

    /// Removes the image whose configuration has this digest, with all references to it. Its file system stays where another
    /// image has the same, or where it is in use. Idempotent: succeeds if the image is absent. Waits as [`Self::collect`] does.
    pub fn remove(&self, id: &Digest, in_use: InUse) -> Result<()> {
        let _alone = self.alone(REMOVAL_TIMEOUT)?;
        self.shelf.remove(id, |path| in_use.has(path))
    }

    fn alone(&self, timeout: Duration) -> Result<RwLockWriteGuard<'_, ()>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.askers.try_write() {
                Ok(alone) => return Ok(alone),
                Err(_) if Instant::now() < deadline => sleep(ALONE_POLL),
                Err(_) => return Err(Error::Busy),
            }
        }
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
            let remote = Remote::new(&source, &self.options, credentials, progress.clone())?;
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
        if let Some(image) = self.present(&name, &digest, is_private).await? {
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
        if let Some(image) = self.shared(&record, &bytes).await? {
            return Ok(image);
        }
        let mut worker = self.worker(&record.reference).await?;
        remote.layers(&manifest, &configuration, &mut worker).await?;
        self.add(worker.write().await?, &record, &bytes, Existing::Kept).await
    }

    /// The image of this name, if it is the one that the registry shows.
    async fn present(&self, name: &str, manifest: &Digest, is_private: bool) -> Result<Option<Image>> {
        let _asking = self.asking().await;
        let Some(record) = self.shelf.record(name).filter(|record| record.manifest == *manifest) else {
            return Ok(None);
        };
        let image = self.given_out(&record)?;
        if image.is_some() && record.is_private && !is_private {
            // It was open to who has no credentials of his own.
            self.shelf.record_as(&ImageSource { is_private, ..record })?;
        }
        Ok(image)
    }

    /// The image, if its file system is here and it may share it.
    pub(crate) async fn shared(&self, record: &ImageSource, configuration: &[u8]) -> Result<Option<Image>> {
        let _asking = self.asking().await;
        if !self.shelf.may_share(record)? {
            return Ok(None);
        }
        self.keep(record, configuration).map(Some)
    }

    /// A worker for an image.
    pub(crate) async fn worker(&self, image: &str) -> Result<Worker> {
        Worker::start(image, self.shelf.work_folder()?, &self.workers).await
    }

    /// Keeps an image whose file system has been made, and gives it out.
    pub(crate) async fn add(
        &self,
        made: Made,
        record: &ImageSource,
        configuration: &[u8],
        existing: Existing,
    ) -> Result<Image> {
        let sum = sum(&made, &record.chain).await?;
        let _publishing = self.making(&record.chain.to_string()).await;
        let _asking = self.asking().await;
        self.publish(&made, &record.chain, &sum, existing)?;
        self.keep(record, configuration)
    }

    /// Puts a file system that has been made in the place of the one that is here.
    pub(crate) async fn replace(&self, made: Made, chain: &Digest) -> Result<()> {
        let sum = sum(&made, chain).await?;
        let _publishing = self.making(&chain.to_string()).await;
        self.publish(&made, chain, &sum, Existing::Replaced)
    }

    /// One that is here already has the same content. The caller sees to it that nobody else comes in between: the sum is that of
    /// this file system.
    fn publish(&self, made: &Made, chain: &Digest, sum: &Digest, existing: Existing) -> Result<()> {
        if existing == Existing::Kept && self.shelf.has(chain) {
            return Ok(());
        }
        self.shelf.publish(&made.path, chain, sum)
    }

    /// The images as files.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// How registries are asked.
    pub(crate) fn options(&self) -> &RegistryOptions {
        &self.options
    }
}

/// The digest of a file system that has been made, and is on disk by then: nobody waits for the disk once it is published.
async fn sum(made: &Made, chain: &Digest) -> Result<Digest> {
    let path = made.path.clone();
    let settled = move || File::open(&path).and_then(|file| file.sync_all()).and_then(|()| sum_of(&path));
    let sum = tokio::task::spawn_blocking(settled).await;
    sum.map_err(|_| Error::Lost(chain.to_string()))?.map_err(Error::io("read", &made.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_means_never() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), RegistryOptions::default(), WorkerOptions::none());
        let store = store.unwrap();
        let reference = ImageReference::parse("127.0.0.1:1/x", None).unwrap();
        let error = store.image(&reference, PullPolicy::Never, None, store.progress()).await.unwrap_err();
        assert!(matches!(error, Error::NotPresent(_)), "{error}");
    }
}
