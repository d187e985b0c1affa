//! What stands before a registry: a line that breaks; and an image index, which skopeo cannot make.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A way to a registry that ends each connection after so many bytes of answers.
pub struct Cutting {
    port: u16,
}

impl Cutting {
    pub async fn before(registry: &str, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let registry = registry.to_owned();
        let left = Arc::new(AtomicUsize::new(bytes));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, registry.clone(), Arc::clone(&left)));
            }
        });
        Self { port }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

async fn pass(client: TcpStream, registry: String, left: Arc<AtomicUsize>) {
    let server = TcpStream::connect(registry).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(count)).is_err() {
            return;
        }
        if to_client.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Puts an index of these tags' manifests there.
pub async fn push_index(registry: &str, name: &str, tag: &str, tags: &[&str]) {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let client = reqwest::Client::new();
    let url = |tag: &str| format!("http://{registry}/v2/{name}/manifests/{tag}");
    let mut manifests: Vec<Value> = Vec::new();
    for tag in tags {
        let answer = client.get(url(tag)).header("accept", MANIFEST).send().await.unwrap();
        let digest = answer.headers()["docker-content-digest"].to_str().unwrap().to_owned();
        let size = answer.bytes().await.unwrap().len();
        manifests.push(json!({
            "mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": { "architecture": tag, "os": "linux" },
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let put =
        client.put(url(tag)).header("content-type", INDEX).body(index.to_string()).send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.text().await.unwrap());
}

/// Puts the manifest of `tag` there again as `other`, with its last layer one that is to be had elsewhere.
pub async fn push_with_foreign_layer(registry: &str, name: &str, tag: &str, other: &str) {
    const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let client = reqwest::Client::new();
    let url = |tag: &str| format!("http://{registry}/v2/{name}/manifests/{tag}");
    let answer = client.get(url(tag)).header("accept", MANIFEST).send().await.unwrap();
    let mut manifest: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let last = manifest["layers"].as_array_mut().unwrap().last_mut().unwrap();
    last["mediaType"] = FOREIGN.into();
    last["urls"] = json!(["https://elsewhere.example/layer"]);
    let put = client.put(url(other)).header("content-type", MANIFEST).body(manifest.to_string()).send().await;
    let put = put.unwrap();
    assert!(put.status().is_success(), "{}", put.text().await.unwrap());
}
