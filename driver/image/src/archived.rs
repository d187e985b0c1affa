//! Images that come as archives. The name of an archive never changes its meaning.

use std::fs::File;

use crate::archive::ImageArchive;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::Layers;
use crate::options::PullPolicy;
use crate::shelf::{Image, ImageSource, Origin, chain};
use crate::store::Store;

/// What becomes of a file system that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Kept,
    Replaced,
}

/// The image in the archive `name`. If it is not in `store` and `policy` allows to fetch it, `fetch` writes the archive into
/// the file that it is given.
pub async fn archived(
    store: &Store,
    name: &str,
    policy: PullPolicy,
    fetch: impl AsyncFnOnce(File) -> Result<File>,
) -> Result<Image> {
    let _asking = store.asking().await;
    let _making = store.making(name).await;
    if let Some(image) = store.shelf().find(name) {
        store.shelf().mark_used(name)?;
        return Ok(image);
    }
    match policy {
        PullPolicy::Never => Err(Error::NotPresent(name.to_owned())),
        PullPolicy::Always | PullPolicy::IfNotPresent => {
            add_archive(store, name, fetch, Existing::Kept).await
        }
    }
}

pub(crate) async fn add_archive(
    store: &Store,
    name: &str,
    fetch: impl AsyncFnOnce(File) -> Result<File>,
    existing: Existing,
) -> Result<Image> {
    let work = store.shelf().work_folder()?;
    let file = tempfile::tempfile_in(work.path()).map_err(Error::io("make a file in", work.path()))?;
    let file = fetch(file).await?;
    let (reference, folder, limit) =
        (name.to_owned(), work.path().to_owned(), store.options().image_bytes_max);
    let read =
        tokio::task::spawn_blocking(move || ImageArchive::open(&reference, file, &folder, limit)?.image());
    let image = read.await.map_err(|_| Error::Lost(name.to_owned()))??;
    let record = ImageSource {
        reference: name.to_owned(),
        origin: Origin::Archive,
        manifest: image.manifest,
        config: Digest::of(&image.configuration_bytes),
        chain: chain(&image.configuration),
        is_private: false,
    };
    if existing == Existing::Replaced || !store.shelf().may_share(&record)? {
        let mut layers = Layers::new(name.to_owned(), work.path(), limit);
        for ((name, blob), diff_id) in image.layers.into_iter().zip(image.configuration.rootfs().diff_ids()) {
            layers.add(name, blob, diff_id);
        }
        store.make(layers, &work, &record.chain).await?;
    }
    store.shelf().keep(&record, &image.configuration_bytes)
}
