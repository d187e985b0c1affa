//! Fetching an image from its registry.

use std::fs::File;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, OptionFuture};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use image_work::{CONFIG_MAX, Digest, LAYERS_MAX, Layer, check_number, is_for_us, is_foreign};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::configuration::configuration;
use crate::error::{Error, Result};
use crate::options::{Credentials, RegistryOptions};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::registry::{Failure, Registry};
use crate::worker::{Worker, whole};

/// Longest that a registry may take for all of a token, a manifest with its index, or a configuration. Layers may take as long
/// as they are large: see [`Progress::at_pace`].
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Layers that are fetched at one time, as Docker does.
const AT_ONCE: usize = 3;
/// Most bytes of a manifest, as the distribution specification has it.
const MANIFEST_MAX: u64 = 4 << 20;
/// Media types of manifests, and of lists of them by platform.
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// An image at a registry.
pub struct Remote<'a> {
    registry: Registry,
    reference: &'a ImageReference,
    progress: Progress,
}

/// What a manifest says, checked. What else it says is not kept.
pub struct Manifest {
    pub digest: Digest,
    config: Blob,
    layers: Vec<Blob>,
}

/// A part of an image, as its manifest names it.
struct Blob {
    digest: Digest,
    size: u64,
}

impl<'a> Remote<'a> {
    /// Prepares to ask for `reference`. `progress` hears how far the layers have come.
    pub fn new(
        reference: &'a ImageReference,
        options: &RegistryOptions,
        credentials: Option<&Credentials>,
        progress: Progress,
    ) -> Result<Self> {
        let registry = Registry::new(reference, options, credentials).map_err(|e| told(reference, e))?;
        Ok(Self { registry, reference, progress })
    }

    /// The registry or mirror that is asked.
    pub fn registry(&self) -> &str {
        self.reference.asked()
    }

    /// Asks for the manifest of our platform.
    pub async fn manifest(&self) -> Result<Manifest> {
        self.within("the manifest", async {
            let name = self.reference.name();
            let (media_type, bytes) = self.document(name, &[MANIFESTS, INDEXES].concat()).await?;
            if !INDEXES.contains(&media_type.as_str()) {
                return self.check(&media_type, &bytes);
            }
            let digest = self.choose(&bytes)?;
            // A registry may take its time for the next.
            drop(bytes);
            let (media_type, bytes) = self.document(&digest.to_string(), &MANIFESTS).await?;
            self.check(&media_type, &bytes)
        })
        .await
    }

    /// A manifest or an index, which must have the digest that it is named by.
    async fn document(&self, name: &str, media_types: &[&str]) -> Result<(String, Vec<u8>)> {
        let (media_type, bytes) =
            self.registry.manifest(name, media_types, MANIFEST_MAX).await.map_err(|e| self.told(e))?;
        match name.parse::<Digest>().map(|expected| (Digest::of(&bytes), expected)) {
            Ok((found, expected)) if found != expected => Err(self.mismatch("the manifest", expected, found)),
            _ => Ok((media_type, bytes)),
        }
    }

    /// The manifest of our platform in an index.
    fn choose(&self, index: &[u8]) -> Result<Digest> {
        let index: ImageIndex = self.read(index)?;
        let ours = index.manifests().iter().find(|entry| is_for_us(entry));
        self.digest(ours.ok_or_else(|| Error::Platform(self.reference.to_string()))?)
    }

    fn check(&self, media_type: &str, bytes: &[u8]) -> Result<Manifest> {
        if !MANIFESTS.contains(&media_type) {
            return Err(self.invalid(format!("its manifest is of type {media_type:?}")));
        }
        let manifest: ImageManifest = self.read(bytes)?;
        let foreign = |layer: &&Descriptor| is_foreign(layer.media_type().as_ref());
        if let Some(foreign) = manifest.layers().iter().find(foreign) {
            return Err(self.invalid(format!("layer {} is a foreign one", foreign.digest())));
        }
        let number = manifest.layers().len();
        if number > LAYERS_MAX {
            return Err(self.invalid(format!("it has {number} layers; the limit is {LAYERS_MAX}")));
        }
        let layers = manifest.layers().iter().map(|layer| self.blob(layer));
        Ok(Manifest {
            digest: Digest::of(bytes),
            config: self.blob(manifest.config())?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Fetches the image's configuration.
    pub async fn configuration(&self, manifest: &Manifest) -> Result<(Vec<u8>, ImageConfiguration)> {
        let Blob { digest, size } = &manifest.config;
        if *size > CONFIG_MAX {
            return Err(
                self.invalid(format!("its configuration has {size} bytes; the limit is {CONFIG_MAX}"))
            );
        }
        let mut bytes = Vec::new();
        let fetched = self.registry.blob(digest, *size, &mut bytes);
        self.within("the configuration", async {
            fetched.await.map_err(|e| match e {
                Failure::Digest(found) => self.mismatch("the configuration", digest.clone(), found),
                e => self.told(e),
            })
        })
        .await?;
        let configuration = configuration(&bytes).map_err(|e| self.invalid(e.to_string()))?;
        Ok((bytes, configuration))
    }

    /// Fetches the layers, several at once, and gives each to `worker` as soon as it comes.
    pub async fn layers(
        &self,
        manifest: &Manifest,
        configuration: &ImageConfiguration,
        worker: &mut Worker,
    ) -> Result<()> {
        let mut fetched = Some(self.fetches(manifest, configuration, worker)?);
        // A layer that is of no use ends the fetching of others.
        while fetched.is_some() || worker.is_busy() {
            let next = OptionFuture::from(fetched.as_mut().map(TryStreamExt::try_next));
            tokio::select! {
                Some(layer) = next => match layer? {
                    Some(layer) => worker.take(layer).await?,
                    None => fetched = None,
                },
                report = worker.reported(), if worker.is_busy() => drop(report?),
            }
        }
        Ok(())
    }

    /// The layers as the registry sends them, the lowest first, in files of `worker`.
    pub async fn blobs(
        &self,
        manifest: &Manifest,
        configuration: &ImageConfiguration,
        worker: &Worker,
    ) -> Result<Vec<Layer>> {
        self.fetches(manifest, configuration, worker)?.try_collect().await
    }

    fn fetches<'b>(
        &'b self,
        manifest: &'b Manifest,
        configuration: &'b ImageConfiguration,
        worker: &Worker,
    ) -> Result<BoxStream<'b, Result<Layer>>> {
        check_number(manifest.layers.len(), configuration).map_err(|reason| self.invalid(reason))?;
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        let (size, most) = (sizes.fold(0, u64::saturating_add), worker.bytes_max());
        if size > most {
            return Err(self.invalid(format!("its layers have {size} bytes; the limit is {most}")));
        }
        self.progress.announce(size);
        let diff_ids = configuration.rootfs().diff_ids();
        let mut fetches: Vec<BoxFuture<'_, Result<Layer>>> = Vec::new();
        for (blob, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let inputs = worker.inputs().clone();
            let layer = async move {
                let (file, file_name) = inputs.create()?;
                let file = self.layer(blob, file).await?;
                let content = whole(&file, file_name)?;
                Ok(Layer { name: blob.digest.clone(), content, diff_id: diff_id.clone() })
            };
            fetches.push(layer.boxed());
        }
        Ok(stream::iter(fetches).buffered(AT_ONCE).boxed())
    }

    async fn layer(&self, Blob { digest, size }: &Blob, file: File) -> Result<File> {
        tracing::info!(layer = %digest, bytes = size, "fetching a layer");
        let mut writer = tokio::fs::File::from_std(file);
        let progress = self.progress.of_one();
        let fetch = self.registry.blob(digest, *size, progress.count(&mut writer));
        let Some(fetched) = progress.at_pace(fetch).await else {
            let (registry, image) = (self.registry().to_owned(), self.reference.to_string());
            return Err(Error::Slow { registry, image, layer: digest.clone() });
        };
        fetched.map_err(|e| match e {
            Failure::Digest(found) => {
                let reason = format!("its digest is {found}").into();
                Error::Layer { image: self.reference.to_string(), layer: digest.clone(), reason }
            }
            e => self.told(e),
        })?;
        Ok(writer.into_std().await)
    }

    /// What comes in time.
    async fn within<T>(&self, what: &'static str, answer: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(DOCUMENT_TIMEOUT, answer).await.unwrap_or_else(|_| {
            let (registry, image) = (self.registry().to_owned(), self.reference.to_string());
            Err(Error::Timeout { registry, image, what, seconds: DOCUMENT_TIMEOUT.as_secs() })
        })
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|e| self.invalid(e.to_string()))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        Ok(Blob { digest: self.digest(descriptor)?, size: descriptor.size() })
    }

    fn digest(&self, descriptor: &Descriptor) -> Result<Digest> {
        descriptor.digest().as_ref().parse().map_err(|e| self.invalid(format!("{e}")))
    }

    fn invalid(&self, reason: String) -> Error {
        Error::Invalid { image: self.reference.to_string(), reason: reason.into() }
    }

    fn mismatch(&self, what: &str, expected: Digest, found: Digest) -> Error {
        Error::Digest { image: self.reference.to_string(), what: what.into(), expected, found }
    }

    fn told(&self, failure: Failure) -> Error {
        told(self.reference, failure)
    }
}

/// A registry's failure, with who was asked for what.
fn told(reference: &ImageReference, failure: Failure) -> Error {
    let (registry, image) = (reference.asked().to_owned(), reference.to_string());
    match failure {
        Failure::NotFound => Error::NotFound(image),
        Failure::Unauthorized => Error::Unauthorized { registry, image },
        Failure::Unreachable(reason) => Error::Unreachable { registry, reason: reason.into() },
        Failure::Answer(reason) => Error::Registry { registry, image, reason: reason.into() },
        Failure::Digest(found) => {
            Error::Registry { registry, image, reason: format!("what it sends has digest {found}").into() }
        }
        Failure::Store(e) => Error::Store { image, reason: e.to_string().into() },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn any_answer_is_a_manifest_or_refused() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reference = ImageReference::parse("registry.example/app:1", None).unwrap();
        let remote = Remote::new(&reference, &RegistryOptions::default(), None, Progress::default()).unwrap();
        let remote = std::panic::AssertUnwindSafe(remote);
        let answers = bolero::generator::produce::<(bool, Vec<u8>)>();
        bolero::check!().with_generator(answers).for_each(|(is_known, bytes)| {
            let _ = remote.check(if *is_known { MANIFESTS[0] } else { "text/html" }, bytes);
            let _ = remote.choose(bytes);
        });
    }

    #[test]
    fn an_error_repeats_no_whole_document() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reference = ImageReference::parse("registry.example/app:1", None).unwrap();
        let remote = Remote::new(&reference, &RegistryOptions::default(), None, Progress::default()).unwrap();
        let long = "x".repeat(3 << 20);
        let descriptor = |digest: &str| format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":1}}"#);
        let config = descriptor(&Digest::of(b"").to_string());
        let layer = descriptor(&format!("sha512:{long}"));
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        for (media_type, bytes) in [(long.as_str(), "{}"), (MANIFESTS[0], manifest.as_str())] {
            let error = remote.check(media_type, bytes.as_bytes()).err().unwrap().to_string();
            assert!(error.contains("registry.example/app:1") && error.len() < 1000, "{} bytes", error.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_does_not_answer_is_named() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let options = RegistryOptions { plain_http: vec![address.clone()], ..RegistryOptions::default() };
        let reference = ImageReference::parse(&format!("{address}/app:1"), None).unwrap();
        let remote = Remote::new(&reference, &options, None, Progress::default()).unwrap();
        let error = remote.manifest().await.err().unwrap().to_string();
        assert!(error.starts_with(&format!("registry {address} ")), "{error}");
        let error = remote.within("the manifest", std::future::pending::<Result<()>>()).await.unwrap_err();
        let expected =
            format!("registry {address} did not send the manifest of image {reference} within 120 s");
        assert_eq!(error.to_string(), expected);
    }
}
