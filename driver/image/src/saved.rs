//! An image made of another and one layer more, as `docker save` writes it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value, json};
use tar::{EntryType, Header};
use tokio::task::spawn_blocking;

use crate::archive::ImageArchive;
use crate::budget::Budget;
use crate::decompress::decompress;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::options::Credentials;
use crate::pull::Remote;
use crate::reference::ImageReference;
use crate::section::Section;
use crate::shelf::{ImageSource, Origin};
use crate::store::Store;

const BLOCK: u64 = 512;
const COMMENT: &str = "openstack appcontainer commit";

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
    configuration: Vec<u8>,
    layers: Vec<(Section, String)>,
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
    let work = store.shelf().work_folder()?;
    let new_file = || tempfile::tempfile_in(work.path()).map_err(Error::io("make a file in", work.path()));
    let sent = match parent.origin {
        Origin::Registry => sent_by_registry(store, parent, credentials, work.path()).await?,
        Origin::Archive => {
            let (file, name) = (fetch(new_file()?).await?, parent.reference.clone());
            let (folder, limit) = (work.path().to_owned(), store.options().image_bytes_max);
            let read = spawn_blocking(move || ImageArchive::open(&name, file, &folder, limit)?.image());
            let image = read.await.map_err(|_| Error::Lost(parent.reference.clone()))??;
            let blobs = image.layers.into_iter().map(|(_, blob)| blob).collect();
            Sent::new(image.configuration_bytes, &image.configuration, blobs)
        }
    };
    let (out, budget) = (new_file()?, Budget::new(store.options().image_bytes_max));
    let image = parent.reference.clone();
    let failed = move |e: io::Error| Error::Store { image, reason: e.to_string() };
    let written = spawn_blocking(move || write(out, sent, addition, &budget)).await;
    written.map_err(|_| Error::Lost(parent.reference.clone()))?.map_err(failed)
}

async fn sent_by_registry(
    store: &Store,
    parent: &ImageSource,
    credentials: Option<&Credentials>,
    folder: &std::path::Path,
) -> Result<Sent> {
    let reference = ImageReference::parse(&parent.reference, None)?.pinned(&parent.manifest);
    let mut last = Err(Error::NotFound(parent.reference.clone()));
    for source in store.sources(&reference, credentials) {
        let remote = Remote::new(&source, store.options(), credentials, store.progress().clone());
        last = async {
            let manifest = remote.manifest().await?;
            let (bytes, configuration) = remote.configuration(&manifest).await?;
            let blobs = remote.blobs(&manifest, folder).await?;
            Ok(Sent::new(bytes, &configuration, blobs))
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
impl Sent {
    fn new(configuration: Vec<u8>, read: &ImageConfiguration, blobs: Vec<Section>) -> Self {
        let layers = blobs.into_iter().zip(read.rootfs().diff_ids().iter().cloned()).collect();
        Self { configuration, layers }
    }
}

fn write(mut out: File, sent: Sent, addition: Addition, budget: &Budget) -> io::Result<File> {
    let mut paths = Vec::new();
    let mut written = HashSet::new();
    for (blob, diff_id) in sent.layers {
        let digest: Digest = diff_id.parse().map_err(io::Error::other)?;
        if written.insert(digest.clone()) {
            let found = write_layer(&mut out, blob, budget)?;
            if found != digest {
                return Err(io::Error::other(format!("a layer has digest {found}, not {digest}")));
            }
        }
        paths.push(layer_path(&digest));
    }
    let own = write_layer(&mut out, Section::whole(addition.layer)?, budget)?;
    paths.push(layer_path(&own));
    let configuration =
        configuration(&sent.configuration, &own, addition.config, &addition.created, &addition.created_by)?;
    let name = format!("{}.json", Digest::of(&configuration).hex());
    write_file(&mut out, &name, &configuration)?;
    let manifest = json!([{ "Config": name, "RepoTags": [addition.name], "Layers": paths }]);
    write_file(&mut out, "manifest.json", &serde_json::to_vec(&manifest)?)?;
    out.write_all(&[0; 2 * BLOCK as usize])?;
    out.rewind()?;
    Ok(out)
}

/// The parent's configuration with one layer more. Members that are unknown to this program stay.
fn configuration(
    parent: &[u8],
    layer: &Digest,
    config: Map<String, Value>,
    created: &str,
    created_by: &str,
) -> io::Result<Vec<u8>> {
    let mut whole: Map<String, Value> = serde_json::from_slice(parent)?;
    for of_parent in ["container", "container_config", "id", "parent"] {
        whole.remove(of_parent);
    }
    whole.insert("created".into(), created.into());
    let mut of_config = take_object(&mut whole, "config");
    of_config.extend(config);
    whole.insert("config".into(), of_config.into());
    let mut rootfs = take_object(&mut whole, "rootfs");
    push(&mut rootfs, "diff_ids", layer.to_string().into());
    whole.insert("rootfs".into(), rootfs.into());
    let history = json!({ "created": created, "created_by": created_by, "comment": COMMENT });
    push(&mut whole, "history", history);
    Ok(serde_json::to_vec(&whole)?)
}

/// A member that is an object; anything else counts as an empty one.
fn take_object(of: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    match of.remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

fn push(of: &mut Map<String, Value>, name: &str, value: Value) {
    let mut list = match of.remove(name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    list.push(value);
    of.insert(name.to_owned(), list.into());
}

fn layer_path(digest: &Digest) -> String {
    format!("{}/layer.tar", digest.hex())
}

/// Writes a layer's content, whose length and name are known only at its end.
fn write_layer(out: &mut File, mut blob: Section, budget: &Budget) -> io::Result<Digest> {
    let start = out.stream_position()?;
    out.write_all(&[0; BLOCK as usize])?;
    let digest = decompress(&mut blob, out, budget)?;
    let end = out.stream_position()?;
    out.write_all_at(header(&layer_path(&digest), end - start - BLOCK)?.as_bytes(), start)?;
    pad(out, end)?;
    Ok(digest)
}

fn write_file(out: &mut File, path: &str, content: &[u8]) -> io::Result<()> {
    out.write_all(header(path, content.len() as u64)?.as_bytes())?;
    out.write_all(content)?;
    let end = out.stream_position()?;
    pad(out, end)
}

fn header(path: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path(path)?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

/// Entries begin at multiples of a block.
fn pad(out: &mut File, end: u64) -> io::Result<()> {
    let whole = end.next_multiple_of(BLOCK);
    out.write_all(&vec![0; (whole - end) as usize])?;
    out.seek(SeekFrom::Start(whole)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn an_image_that_is_saved_is_its_parent_and_a_layer_more() {
        let zstd = zstd::encode_all(&b"lower"[..], 1).unwrap();
        let parent = json!({ "architecture": "amd64", "os": "linux", "unknown": 7, "container": "x",
            "config": { "Cmd": ["old"], "User": "www" },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"lower"), Digest::of(b"lower")] } });
        let lower = || Section::whole(file(&zstd)).unwrap();
        let sent = Sent {
            configuration: serde_json::to_vec(&parent).unwrap(),
            layers: [lower(), lower()].map(|blob| (blob, Digest::of(b"lower").to_string())).into(),
        };
        let addition = Addition {
            layer: file(b"upper"),
            config: Map::from_iter([("Cmd".to_owned(), json!(["new"]))]),
            created: "2026-01-01T00:00:00Z".into(),
            created_by: "sh".into(),
            name: "app:1".into(),
        };
        let saved = write(tempfile::tempfile().unwrap(), sent, addition, &Budget::new(100)).unwrap();
        let image =
            ImageArchive::open("saved", saved, &std::env::temp_dir(), 1 << 20).unwrap().image().unwrap();
        let names: Vec<_> = image.layers.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, [Digest::of(b"lower"), Digest::of(b"lower"), Digest::of(b"upper")]);
        assert_eq!(image.layers[2].1.to_vec(100).unwrap(), b"upper");
        let config: Value = serde_json::from_slice(&image.configuration_bytes).unwrap();
        assert_eq!(config["config"], json!({ "Cmd": ["new"], "User": "www" }));
        assert_eq!((config.get("container"), &config["unknown"]), (None, &json!(7)));
        assert_eq!(config["history"][0]["created_by"], "sh");
    }

    #[test]
    fn a_layer_that_is_not_what_it_should_be_is_no_part_of_it() {
        let sent = Sent {
            configuration: b"{}".to_vec(),
            layers: vec![(Section::whole(file(b"other")).unwrap(), Digest::of(b"lower").to_string())],
        };
        let addition = Addition {
            layer: file(b""),
            config: Map::new(),
            created: String::new(),
            created_by: String::new(),
            name: String::new(),
        };
        let error = write(tempfile::tempfile().unwrap(), sent, addition, &Budget::new(100)).unwrap_err();
        assert!(error.to_string().contains("a layer has digest"), "{error}");
    }
}
