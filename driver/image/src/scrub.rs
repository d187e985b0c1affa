//! Finds file systems that the host's disk has damaged, and makes them again.

use std::fs::{self, File};
use std::io;

use image_work::{Digest, sum_of};

use crate::archived::add_archive;
use crate::error::{Error, Result};
use crate::pull::Remote;
use crate::reference::ImageReference;
use crate::shelf::{Existing, ImageSource, Origin};
use crate::store::Store;

/// A file system that was checked.
#[derive(Debug)]
pub struct Scrubbed {
    /// The digest of its layers, which is its name.
    pub layers: Digest,
    /// References to images that have it.
    pub images: Vec<String>,
    /// What was found.
    pub finding: Finding,
}

/// What a check found.
#[derive(Debug)]
pub enum Finding {
    /// It is as it was made.
    Whole,
    /// It was damaged, and was made again. A container that runs has it as it was until it is started again.
    Healed,
    /// It is damaged, and could not be made again.
    Damaged(Error),
}

/// Checks the file systems of all images of a store, and makes damaged ones again. `tell` is called after each. `fetch` writes the
/// archive of a name into a file.
pub async fn scrub(
    store: &Store,
    fetch: impl AsyncFn(&str, File) -> Result<File>,
    mut tell: impl FnMut(Scrubbed),
) -> Result<()> {
    let mut records: Vec<ImageSource> =
        store.shelf().records()?.into_iter().map(|(_, record)| record).collect();
    records.sort_by(|one, other| one.chain.cmp(&other.chain));
    for records in records.chunk_by(|one, other| one.chain == other.chain) {
        let Some(first) = records.first() else { continue };
        let finding = if is_whole(store, &first.chain).await? {
            Finding::Whole
        } else {
            heal(store, records, &fetch).await.map_or_else(Finding::Damaged, |()| Finding::Healed)
        };
        let images = records.iter().map(|record| record.reference.clone()).collect();
        tell(Scrubbed { layers: first.chain.clone(), images, finding });
    }
    Ok(())
}

async fn is_whole(store: &Store, chain: &Digest) -> Result<bool> {
    let (file_system, sum) = (store.shelf().rootfs_path(chain), store.shelf().sum_path(chain));
    let read = move || {
        let found = match sum_of(&file_system) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found.map_err(Error::io("read", &file_system))?,
        };
        // A sum that cannot be read counts as a wrong one.
        Ok(fs::read_to_string(sum).is_ok_and(|made| made == found.to_string()))
    };
    let lost = |_| Error::Lost(chain.to_string());
    tokio::task::spawn_blocking(read).await.map_err(lost)?
}

/// Makes a file system again from whichever image of it can still be had.
async fn heal(
    store: &Store,
    records: &[ImageSource],
    fetch: &impl AsyncFn(&str, File) -> Result<File>,
) -> Result<()> {
    let mut last = Ok(());
    for record in records {
        last = match record.origin {
            Origin::Registry => pull_again(store, record).await,
            Origin::Archive => {
                let fetch = async |file: File| fetch(&record.reference, file).await;
                add_archive(store, &record.reference, fetch, Existing::Replaced).await.map(drop)
            }
        };
        match &last {
            Ok(()) => return last,
            Err(e) => {
                tracing::warn!(image = record.reference, error = %e, "image cannot be fetched again");
            }
        }
    }
    last
}

async fn pull_again(store: &Store, record: &ImageSource) -> Result<()> {
    let reference = ImageReference::parse(&record.reference, None)?.pinned(&record.manifest);
    let mut last = Err(Error::NotFound(record.reference.clone()));
    for source in store.sources(&reference, None) {
        last = pull_again_from(store, &source, record).await;
        match &last {
            Ok(()) => return last,
            Err(e) => {
                tracing::debug!(image = %reference, registry = source.asked(), error = %e, "image cannot be fetched");
            }
        }
    }
    last
}

async fn pull_again_from(store: &Store, source: &ImageReference, record: &ImageSource) -> Result<()> {
    let remote = Remote::new(source, store.options(), None, store.progress().clone())?;
    let manifest = remote.manifest().await?;
    let (_, configuration) = remote.configuration(&manifest).await?;
    let mut worker = store.worker(&record.reference).await?;
    remote.layers(&manifest, &configuration, &mut worker).await?;
    store.replace(worker.write().await?, &record.chain).await
}
