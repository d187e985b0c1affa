//! Whether what is kept is still what was made; what is not is made again.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::archived::Existing;
use crate::digest::{Digest, DigestReader};
use crate::error::{Error, Result};
use crate::pull::Remote;
use crate::reference::ImageReference;
use crate::store::{ImageSource, Origin, Store};

/// A file system that was looked at.
#[derive(Debug)]
pub struct Scrubbed {
    /// Its layers' digest, by which it is named.
    pub layers: Digest,
    /// References to images that have it.
    pub images: Vec<String>,
    /// What was found.
    pub finding: Finding,
}

/// What becomes of a file system.
#[derive(Debug)]
pub enum Finding {
    /// It is what was made.
    Whole,
    /// It was damaged, and was made again. A container that runs has it as it was until it is started again.
    Healed,
    /// It is damaged, and could not be made again.
    Damaged(Error),
}

impl Store {
    /// Reads all file systems that images have, and makes those again that are not what they were when they were made.
    /// Each is told of when it was looked at. `fetch` writes the archive of a name into a file.
    pub async fn scrub(
        &self,
        fetch: impl AsyncFn(&str, File) -> Result<File>,
        mut tell: impl FnMut(Scrubbed),
    ) -> Result<()> {
        let mut records: Vec<ImageSource> = self.records()?.into_iter().map(|(_, record)| record).collect();
        records.sort_by(|one, other| one.chain.cmp(&other.chain));
        for records in records.chunk_by(|one, other| one.chain == other.chain) {
            let Some(first) = records.first() else { continue };
            let finding = if self.is_whole(&first.chain).await? {
                Finding::Whole
            } else {
                self.heal(records, &fetch).await.map_or_else(Finding::Damaged, |()| Finding::Healed)
            };
            let images = records.iter().map(|record| record.reference.clone()).collect();
            tell(Scrubbed { layers: first.chain.clone(), images, finding });
        }
        Ok(())
    }

    async fn is_whole(&self, chain: &Digest) -> Result<bool> {
        let (file_system, sum) = (self.rootfs_path(chain), self.sum_path(chain));
        let read = move || {
            let found = match sum_of(&file_system) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                found => found.map_err(Error::io("read", &file_system))?,
            };
            // A sum that cannot be read is no better than a wrong one.
            Ok(fs::read_to_string(sum).is_ok_and(|made| made == found.to_string()))
        };
        let lost = |_| Error::Lost(chain.to_string());
        tokio::task::spawn_blocking(read).await.map_err(lost)?
    }

    /// Makes a file system again from whichever image of it can still be had.
    async fn heal(
        &self,
        records: &[ImageSource],
        fetch: &impl AsyncFn(&str, File) -> Result<File>,
    ) -> Result<()> {
        let mut last = Ok(());
        for record in records {
            last = match record.origin {
                Origin::Registry => self.pull_again(record).await,
                Origin::Archive => {
                    let fetch = async |file: File| fetch(&record.reference, file).await;
                    self.add_archive(&record.reference, fetch, Existing::Replaced).await.map(drop)
                }
            };
            match &last {
                Ok(()) => return last,
                Err(e) => tracing::warn!("{} is not had: {e}", record.reference),
            }
        }
        last
    }

    async fn pull_again(&self, record: &ImageSource) -> Result<()> {
        let reference = ImageReference::parse(&record.reference, None)?.pinned(&record.manifest);
        let mut last = Err(Error::NotFound(record.reference.clone()));
        for source in self.sources(&reference, None) {
            last = self.pull_again_from(&source, record).await;
            match &last {
                Ok(()) => return last,
                Err(e) => tracing::debug!(source = source.asked(), "{reference} is not had: {e}"),
            }
        }
        last
    }

    async fn pull_again_from(&self, source: &ImageReference, record: &ImageSource) -> Result<()> {
        let remote = Remote::new(source, self.options(), None, self.progress().clone());
        let manifest = remote.manifest().await?;
        let (_, configuration) = remote.configuration(&manifest).await?;
        let work = self.work_folder()?;
        let layers = remote.layers(manifest, &configuration, work.path()).await?;
        self.make(layers, &work, &record.chain).await
    }
}

/// The digest of a file's content.
pub(crate) fn sum_of(path: &Path) -> io::Result<Digest> {
    let mut reader = DigestReader::new(File::open(path)?);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish())
}
