//! Images that come as archives. The name of an archive never changes its meaning.

use std::fs::File;

use image_work::Digest;

use crate::error::{Error, Result};
use crate::options::PullPolicy;
use crate::shelf::{Existing, Image, ImageSource, Origin, chain};
use crate::store::Store;

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
    let mut worker = store.worker(name).await?;
    let (file, archive) = worker.inputs().create()?;
    fetch(file).await?;
    let image = worker.read(archive).await?;
    let configuration = serde_json::from_str(&image.configuration)
        .map_err(|e| Error::Invalid { image: name.to_owned(), reason: e.to_string() })?;
    let record = ImageSource {
        reference: name.to_owned(),
        origin: Origin::Archive,
        manifest: image.manifest,
        config: Digest::of(image.configuration.as_bytes()),
        chain: chain(&configuration),
        is_private: false,
    };
    if existing == Existing::Replaced || !store.shelf().may_share(&record)? {
        for layer in image.layers {
            worker.add(layer).await?;
        }
        store.publish(worker.write().await?, &record.chain, existing).await?;
    }
    store.shelf().keep(&record, image.configuration.as_bytes())
}
