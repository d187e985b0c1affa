//! Fetching an image from its registry.

use std::path::Path;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use oci_client::client::{
    Certificate, CertificateEncoding, ClientConfig, ClientProtocol, linux_amd64_resolver,
};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use oci_spec::image::ImageConfiguration;
use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::bounded::Bounded;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::{CONFIG_MAX, Layers, check_number, is_foreign};
use crate::options::{Credentials, RegistryOptions};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::search::innermost;
use crate::section::Section;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for an answer, and for each further piece of it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest that a registry may take for all of a token, a manifest with its index, or a configuration. Layers may take as long
/// as they are large: see [`Progress::at_pace`].
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Layers that are fetched at one time, as Docker does.
const AT_ONCE: usize = 3;

/// What the client makes of an answer.
type Answer<T> = std::result::Result<T, OciDistributionError>;

/// An image at a registry.
pub struct Remote<'a> {
    client: Client,
    auth: RegistryAuth,
    reference: &'a ImageReference,
    limit: u64,
    progress: Progress,
}

/// What a manifest says, checked.
pub struct Manifest {
    pub digest: Digest,
    config: OciDescriptor,
    layers: Vec<(Digest, OciDescriptor)>,
}

impl<'a> Remote<'a> {
    /// Prepares to ask for `reference`. `progress` hears how far the layers have come.
    pub fn new(
        reference: &'a ImageReference,
        options: &RegistryOptions,
        credentials: Option<&Credentials>,
        progress: Progress,
    ) -> Self {
        let certificate =
            |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() };
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(options.plain_http.clone()),
            extra_root_certificates: options.certificates.iter().map(certificate).collect(),
            platform_resolver: Some(Box::new(linux_amd64_resolver)),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("zun-kata-compute/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = credentials.map_or(RegistryAuth::Anonymous, |credentials| {
            RegistryAuth::Basic(credentials.username.clone(), credentials.password.clone())
        });
        Self { client: Client::new(config), auth, reference, limit: options.image_bytes_max, progress }
    }

    /// The registry or mirror that is asked.
    pub fn registry(&self) -> &str {
        self.reference.asked()
    }

    /// Asks for the manifest of our platform.
    pub async fn manifest(&self) -> Result<Manifest> {
        let image = self.reference.inner();
        self.within("a token", self.client.auth(image, &self.auth, RegistryOperation::Pull)).await?;
        let manifest = self.within("the manifest", self.client.pull_image_manifest(image, &self.auth));
        let (manifest, digest) = manifest.await?;
        self.check(manifest, &digest)
    }

    fn check(&self, manifest: OciImageManifest, digest: &str) -> Result<Manifest> {
        let parse = |digest: &str| digest.parse::<Digest>().map_err(|e| self.invalid(e.to_string()));
        if let Some(foreign) = manifest.layers.iter().find(|layer| is_foreign(&layer.media_type)) {
            return Err(self.invalid(format!("layer {} is a foreign one", foreign.digest)));
        }
        let layers = manifest.layers.into_iter().map(|layer| Ok((parse(&layer.digest)?, layer)));
        Ok(Manifest {
            digest: parse(digest)?,
            config: manifest.config,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Fetches the image's configuration.
    pub async fn configuration(&self, manifest: &Manifest) -> Result<(Vec<u8>, ImageConfiguration)> {
        if u64::try_from(manifest.config.size).is_ok_and(|size| size > CONFIG_MAX) {
            return Err(self.invalid("its configuration is too large".into()));
        }
        let mut bytes = Vec::new();
        self.within("the configuration", self.blob(&manifest.config, &mut bytes)).await?;
        let expected: Digest =
            manifest.config.digest.parse().map_err(|_| self.invalid("its configuration's digest".into()))?;
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(self.mismatch("the configuration", expected, found));
        }
        let configuration = serde_json::from_slice(&bytes).map_err(|e| self.invalid(e.to_string()))?;
        Ok((bytes, configuration))
    }

    /// Fetches the layers, several at once.
    pub async fn layers(
        &self,
        manifest: Manifest,
        configuration: &ImageConfiguration,
        folder: &Path,
    ) -> Result<Layers> {
        let image = self.reference.to_string();
        check_number(&image, manifest.layers.len(), configuration)?;
        let sizes = manifest.layers.iter().filter_map(|(_, layer)| u64::try_from(layer.size).ok());
        self.progress.announce(sizes.fold(0, u64::saturating_add));
        let mut layers = Layers::new(image, folder, self.limit);
        let mut fetched = self.fetches(&manifest, folder);
        for ((digest, _), diff_id) in manifest.layers.iter().zip(configuration.rootfs().diff_ids()) {
            let Some(blob) = fetched.try_next().await? else { break };
            layers.add(digest.clone(), blob, diff_id);
        }
        Ok(layers)
    }

    /// The layers as the registry sends them, the lowest first.
    pub async fn blobs(&self, manifest: &Manifest, folder: &Path) -> Result<Vec<Section>> {
        self.fetches(manifest, folder).try_collect().await
    }

    fn fetches<'b>(&'b self, manifest: &'b Manifest, folder: &'b Path) -> BoxStream<'b, Result<Section>> {
        let mut fetches: Vec<BoxFuture<'_, Result<Section>>> = Vec::new();
        for (digest, descriptor) in &manifest.layers {
            fetches.push(self.layer(digest, descriptor, folder).boxed());
        }
        stream::iter(fetches).buffered(AT_ONCE).boxed()
    }

    async fn layer(&self, digest: &Digest, descriptor: &OciDescriptor, folder: &Path) -> Result<Section> {
        if u64::try_from(descriptor.size).is_ok_and(|size| size > self.limit) {
            let reason = format!("it has {} bytes, {} are possible", descriptor.size, self.limit);
            return Err(Error::Layer { image: self.reference.to_string(), layer: digest.clone(), reason });
        }
        tracing::info!(layer = %digest, bytes = descriptor.size, "fetching a layer");
        let file = tempfile::tempfile_in(folder).map_err(|e| self.store(e))?;
        let mut writer = tokio::fs::File::from_std(file);
        let progress = self.progress.of_one();
        let Some(fetched) = progress.at_pace(self.blob(descriptor, progress.count(&mut writer))).await else {
            let (registry, image) = (self.registry().to_owned(), self.reference.to_string());
            return Err(Error::Slow { registry, image, layer: digest.clone() });
        };
        fetched.map_err(|e| self.error(e))?;
        tokio::io::AsyncWriteExt::flush(&mut writer).await.map_err(|e| self.store(e))?;
        Section::whole(writer.into_std().await).map_err(|e| self.store(e))
    }

    /// Fetches a blob into `out`, no more of it than its descriptor says. The client checks its digest.
    async fn blob(&self, descriptor: &OciDescriptor, out: impl AsyncWrite + Unpin) -> Answer<()> {
        let size = u64::try_from(descriptor.size).unwrap_or(0);
        self.client.pull_blob(self.reference.inner(), descriptor, Bounded::new(out, size)).await
    }

    /// What the registry answers in time.
    async fn within<T>(&self, what: &'static str, answer: impl Future<Output = Answer<T>>) -> Result<T> {
        match timeout(DOCUMENT_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|e| self.error(e)),
            Err(_) => {
                let (registry, image) = (self.registry().to_owned(), self.reference.to_string());
                Err(Error::Timeout { registry, image, what, seconds: DOCUMENT_TIMEOUT.as_secs() })
            }
        }
    }

    fn store(&self, error: std::io::Error) -> Error {
        Error::Store { image: self.reference.to_string(), reason: error.to_string() }
    }

    fn invalid(&self, reason: String) -> Error {
        Error::Invalid { image: self.reference.to_string(), reason }
    }

    fn mismatch(&self, what: &'static str, expected: Digest, found: Digest) -> Error {
        Error::Digest { image: self.reference.to_string(), what, expected, found }
    }

    /// The registry's error in our words.
    fn error(&self, error: OciDistributionError) -> Error {
        use oci_client::errors::OciErrorCode;
        let image = self.reference.to_string();
        let registry = self.registry().to_owned();
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => Error::Platform(image),
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|e| {
                    matches!(
                        e.code,
                        OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
                    )
                }) =>
            {
                Error::NotFound(image)
            }
            OciDistributionError::ServerError { code: 404, .. } => Error::NotFound(image),
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::ServerError { code: 401 | 403, .. } => {
                Error::Unauthorized { registry, image }
            }
            OciDistributionError::RequestError(e) if e.is_connect() => {
                Error::Unreachable { registry, reason: innermost(&e) }
            }
            OciDistributionError::RequestError(e) => {
                Error::Registry { registry, image, reason: innermost(&e) }
            }
            OciDistributionError::IoError(e) => self.store(e),
            other => Error::Registry { registry, image, reason: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_does_not_answer_is_named() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let options = RegistryOptions { plain_http: vec![address.clone()], ..RegistryOptions::default() };
        let reference = ImageReference::parse(&format!("{address}/app:1"), None).unwrap();
        let remote = Remote::new(&reference, &options, None, Progress::default());
        let error = remote.manifest().await.err().unwrap().to_string();
        assert!(error.starts_with(&format!("registry {address} ")), "{error}");
        let error = remote.within("the manifest", std::future::pending::<Answer<()>>()).await.unwrap_err();
        let expected =
            format!("registry {address} did not send the manifest of image {reference} within 120 s");
        assert_eq!(error.to_string(), expected);
    }
}
