//! An image made of another and one layer more, as `docker save` writes it.

use std::fs::File;
use std::io::{self, Seek};

use image_work::{Layer, Save};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::options::Credentials;
use crate::pull::Remote;
use crate::reference::ImageReference;
use crate::shelf::{ImageSource, Origin};
use crate::store::Store;
use crate::worker::{Worker, whole};

/// What a new image adds to its parent.
pub struct Addition {
    /// Its own layer, an archive that is not compressed.
    pub layer: File,
    /// How a container runs, in place of what the parent's configuration says.
    pub config: Map<String, Value>,
    /// When it was made (RFC 3339).
    pub created: String,
    /// By which command.
    pub created_by: String,
    /// What it is called, with a tag.
    pub name: String,
}

/// An image with its layers as they were sent.
struct Sent {
    configuration: String,
    layers: Vec<Layer>,
}

/// An archive of an image that has the layers of `parent` and one more. The parent's layers are fetched again from where they
/// came, since the store keeps file systems, not layers. `fetch` writes the archive of a name into a file.
pub async fn save(
    store: &Store,
    parent: &ImageSource,
    credentials: Option<&Credentials>,
    fetch: impl AsyncFnOnce(File) -> Result<File>,
    addition: Addition,
) -> Result<File> {
    let mut worker = store.worker(&parent.reference).await?;
    let sent = match parent.origin {
        Origin::Registry => sent_by_registry(store, parent, credentials, &worker).await?,
        Origin::Archive => {
            let (file, archive) = worker.inputs().create()?;
            fetch(file).await?;
            let image = worker.read(archive).await?;
            Sent { configuration: image.configuration, layers: image.layers }
        }
    };
    let (mut own, name) = worker.inputs().create()?;
    let Addition { mut layer, config, created, created_by, name: tag } = addition;
    let copied = tokio::task::spawn_blocking(move || {
        layer.rewind()?;
        io::copy(&mut layer, &mut own)?;
        Ok(own)
    });
    let copied = copied.await.map_err(|_| Error::Lost(parent.reference.clone()))?;
    let own = whole(&copied.map_err(Error::io("copy a layer to", &name))?, name)?;
    let Sent { configuration, layers } = sent;
    let order = Save { layers, configuration, own, config, created, created_by, name: tag };
    Ok(worker.save(order).await?.file)
}

async fn sent_by_registry(
    store: &Store,
    parent: &ImageSource,
    credentials: Option<&Credentials>,
    worker: &Worker,
) -> Result<Sent> {
    let reference = ImageReference::parse(&parent.reference, None)?.pinned(&parent.manifest);
    let mut last = Err(Error::NotFound(parent.reference.clone()));
    for source in store.sources(&reference, credentials) {
        let remote = Remote::new(&source, store.options(), credentials, store.progress().clone())?;
        last = async {
            let manifest = remote.manifest().await?;
            let (bytes, configuration) = remote.configuration(&manifest).await?;
            let layers = remote.blobs(&manifest, &configuration, worker).await?;
            Ok(Sent { configuration: String::from_utf8_lossy(&bytes).into_owned(), layers })
        }
        .await;
        match &last {
            Ok(_) => return last,
            Err(e) => {
                tracing::warn!(image = %reference, registry = source.asked(), error = %e, "image cannot be fetched");
            }
        }
    }
    last
}
