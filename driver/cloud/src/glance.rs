use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::AsyncWrite;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::keystone::{Keystone, UserToken};
use crate::rest::{ClientOptions, NOTHING, Rest};

/// The container format of images that hold a container's file system.
const CONTAINER_FORMAT: &str = "docker";
const PATCH_TYPE: &str = "application/openstack-images-v2.1-json-patch";
/// Images in one page of a list, and pages that are asked for.
const PAGE: usize = 500;
const PAGES_MAX: usize = 100;

/// Glance, as the service's user, or as one whom it serves.
#[derive(Debug, Clone)]
pub struct Glance(Rest);

/// An image as Glance describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlanceImage {
    /// Its identifier: the data it names never change.
    pub id: Uuid,
    /// Its name, which others may have too.
    pub name: Option<String>,
    /// `active` once it has data.
    pub status: String,
    /// `docker`, or another.
    #[serde(default)]
    pub container_format: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Bytes of its data.
    #[serde(default)]
    pub size: Option<u64>,
    /// How `os_hash_value` is computed.
    #[serde(default)]
    pub os_hash_algo: Option<String>,
    /// What it is, in hexadecimal.
    #[serde(default)]
    pub os_hash_value: Option<String>,
    /// What else is said of it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Page {
    images: Vec<GlanceImage>,
    next: Option<String>,
}

impl Glance {
    /// A client on the session.
    pub fn new(keystone: Keystone, options: ClientOptions) -> Self {
        Self(Rest::new(keystone, "Glance", &["image"], options, None))
    }

    /// The same in the name of a user.
    pub fn as_user(&self, token: UserToken) -> Self {
        Self(self.0.as_user(token))
    }

    /// The container image of this identifier, if there is one that may be seen.
    pub async fn get(&self, id: Uuid) -> Result<Option<GlanceImage>> {
        match self.0.call::<GlanceImage>(Method::GET, &format!("/v2/images/{id}"), NOTHING).await {
            Err(e) if e.is_not_found() => Ok(None),
            found => found.map(|image| Some(image).filter(GlanceImage::is_container)),
        }
    }

    /// All container images that may be seen.
    pub async fn list(&self) -> Result<Vec<GlanceImage>> {
        self.pages(format!("/v2/images?container_format={CONTAINER_FORMAT}&limit={PAGE}")).await
    }

    /// All container images of this name that may be seen.
    pub async fn named(&self, name: &str) -> Result<Vec<GlanceImage>> {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let path = format!("/v2/images?container_format={CONTAINER_FORMAT}&limit={PAGE}&name={name}");
        self.pages(path).await
    }

    async fn pages(&self, first: String) -> Result<Vec<GlanceImage>> {
        let mut images = Vec::new();
        let mut next = Some(first);
        for _ in 0..PAGES_MAX {
            let Some(path) = next else { break };
            let page: Page = self.0.call(Method::GET, &path, NOTHING).await?;
            images.extend(page.images.into_iter().filter(GlanceImage::is_container));
            next = page.next;
        }
        Ok(images)
    }

    /// Writes an image's data to `out`, and fails if they do not match Glance's checksum.
    pub async fn download(&self, image: &GlanceImage, out: impl AsyncWrite + Unpin) -> Result<()> {
        let path = format!("/v2/images/{}/file", image.id);
        let algorithm = image.os_hash_algo.as_deref().unwrap_or_default();
        let found = match algorithm {
            "sha256" => self.digest::<Sha256>(&path, out).await?,
            "sha384" => self.digest::<Sha384>(&path, out).await?,
            "sha512" => self.digest::<Sha512>(&path, out).await?,
            other => {
                return Err(Error::Options(format!(
                    "image {} of Glance has a checksum of algorithm {other:?}: sha256, sha384 and sha512 are known",
                    image.id
                )));
            }
        };
        let expected = image.os_hash_value.clone().unwrap_or_default();
        if found == expected {
            return Ok(());
        }
        Err(Error::Checksum { image: image.id.to_string(), algorithm: algorithm.to_owned(), expected, found })
    }

    /// Makes an image of this identifier that has no data yet.
    pub async fn create(&self, id: Uuid, name: &str) -> Result<()> {
        let image = json!({ "id": id, "name": name });
        self.0.call::<Value>(Method::POST, "/v2/images", Some(&image)).await.map(drop)
    }

    /// Whether there is an image of this identifier that has its data.
    pub async fn is_active(&self, id: Uuid) -> Result<bool> {
        match self.0.call::<GlanceImage>(Method::GET, &format!("/v2/images/{id}"), NOTHING).await {
            Err(e) if e.is_not_found() => Ok(false),
            found => found.map(|image| image.status == "active"),
        }
    }

    /// Describes an image as Zun does: as a container's file system, with these tags.
    pub async fn describe(&self, id: Uuid, tags: &[&str]) -> Result<()> {
        let replace = |path: &str, value: Value| json!({ "op": "replace", "path": path, "value": value });
        let operations = [
            replace("/disk_format", "qcow2".into()),
            replace("/container_format", CONTAINER_FORMAT.into()),
            replace("/tags", json!(tags)),
        ];
        self.0.patch(&format!("/v2/images/{id}"), PATCH_TYPE, &json!(operations)).await
    }

    /// Gives an image its data.
    pub async fn upload(&self, id: Uuid, data: File) -> Result<()> {
        self.0.upload(&format!("/v2/images/{id}/file"), data).await
    }

    /// Deletes an image. Idempotent: succeeds if it is absent.
    pub async fn delete(&self, id: Uuid) -> Result<()> {
        match self.0.call::<Value>(Method::DELETE, &format!("/v2/images/{id}"), NOTHING).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn digest<D: Digest + Unpin>(&self, path: &str, out: impl AsyncWrite + Unpin) -> Result<String> {
        let mut out = Hashed { inner: out, hash: D::new() };
        self.0.download(path, &mut out).await?;
        Ok(out.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl GlanceImage {
    fn is_container(&self) -> bool {
        self.container_format.as_deref() == Some(CONTAINER_FORMAT)
    }
}

/// Passes data on and computes their digest.
struct Hashed<W, D> {
    inner: W,
    hash: D,
}

impl<W: AsyncWrite + Unpin, D: Digest + Unpin> AsyncWrite for Hashed<W, D> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, data);
        if let Poll::Ready(Ok(count)) = written {
            self.hash.update(&data[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_what_glance_says_of_it() {
        let text = r#"{"name": "app", "disk_format": "raw", "container_format": "docker", "visibility": "private",
            "size": 3, "status": "active", "checksum": "x", "tags": ["v1"], "os_hash_algo": "sha512",
            "os_hash_value": "ab", "id": "b9ad5e49-6e9e-4b7b-a73d-9b2d2c7fbd7c"}"#;
        let image: GlanceImage = serde_json::from_str(text).unwrap();
        assert!(image.is_container());
        assert_eq!((image.tags[0].as_str(), image.size), ("v1", Some(3)));
        let again: Value = serde_json::to_value(&image).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }
}
