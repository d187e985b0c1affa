//! Images that come as archives. The name of an archive never changes its meaning.

use std::fs::File;

use image_work::Digest;

use crate::configuration::configuration;
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
    let _making = store.making(name).await;
    if let Some(image) = store.find(name).await? {
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
    let parsed = configuration(image.configuration.as_bytes())
        .map_err(|e| Error::Invalid { image: name.to_owned(), reason: e.to_string().into() })?;
    let record = ImageSource {
        reference: name.to_owned(),
        origin: Origin::Archive,
        manifest: image.manifest,
        config: Digest::of(image.configuration.as_bytes()),
        chain: chain(&parsed),
        is_private: false,
    };
    let configuration = image.configuration.as_bytes();
    if existing == Existing::Kept
        && let Some(image) = store.shared(&record, configuration).await?
    {
        return Ok(image);
    }
    for layer in image.layers {
        worker.add(layer).await?;
    }
    store.add(worker.write().await?, &record, configuration, existing).await
}
