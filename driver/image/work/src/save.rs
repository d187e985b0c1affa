//! An image made of another and one layer more, as `docker save` writes it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Map, Value, json};
use tar::{EntryType, Header};

use crate::budget::Budget;
use crate::decompress::decompress;
use crate::digest::Digest;
use crate::files::section;
use crate::orders::{Fault, Save};
use crate::section::Section;

const BLOCK: u64 = 512;
const COMMENT: &str = "openstack appcontainer commit";

/// Writes the archive that is ordered to the new file `out`; its layers may have so many bytes.
pub fn save(order: &Save, out: &Path, budget: &Budget) -> Result<(), Fault> {
    let layers = order.layers.iter().map(|layer| Ok((section(&layer.content)?, layer.diff_id.as_str())));
    let (layers, own) = (layers.collect::<Result<Vec<_>, Fault>>()?, section(&order.own)?);
    let out = File::options().read(true).write(true).create_new(true).open(out);
    out.and_then(|out| write(out, layers, own, order, budget)).map_err(|e| Fault::Store(e.to_string()))
}

fn write(
    mut out: File,
    layers: Vec<(Section, &str)>,
    own: Section,
    order: &Save,
    budget: &Budget,
) -> io::Result<()> {
    let mut paths = Vec::new();
    let mut written = HashSet::new();
    for (blob, diff_id) in layers {
        let digest: Digest = diff_id.parse().map_err(io::Error::other)?;
        if written.insert(digest.clone()) {
            let found = write_layer(&mut out, blob, budget)?;
            if found != digest {
                return Err(io::Error::other(format!("a layer has digest {found}, not {digest}")));
            }
        }
        paths.push(layer_path(&digest));
    }
    let own = write_layer(&mut out, own, budget)?;
    paths.push(layer_path(&own));
    let configuration = configuration(order, &own)?;
    let name = format!("{}.json", Digest::of(&configuration).hex());
    write_file(&mut out, &name, &configuration)?;
    let manifest = json!([{ "Config": name, "RepoTags": [order.name], "Layers": paths }]);
    write_file(&mut out, "manifest.json", &serde_json::to_vec(&manifest)?)?;
    out.write_all(&[0; 2 * BLOCK as usize])
}

/// The parent's configuration with one layer more. Members that are unknown to this program stay.
fn configuration(order: &Save, layer: &Digest) -> io::Result<Vec<u8>> {
    let Save { created, created_by, .. } = order;
    let mut whole: Map<String, Value> = serde_json::from_str(&order.configuration)?;
    for of_parent in ["container", "container_config", "id", "parent"] {
        whole.remove(of_parent);
    }
    whole.insert("created".into(), created.as_str().into());
    let mut of_config = take_object(&mut whole, "config");
    of_config.extend(order.config.clone());
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
    use crate::archive::ImageArchive;

    fn file(content: &[u8]) -> Section {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Section::whole(file).unwrap()
    }

    fn order(configuration: &Value) -> Save {
        let nowhere = crate::orders::Piece { file: String::new(), start: 0, length: 0 };
        Save {
            layers: Vec::new(),
            configuration: configuration.to_string(),
            own: nowhere,
            config: Map::from_iter([("Cmd".to_owned(), json!(["new"]))]),
            created: "2026-01-01T00:00:00Z".into(),
            created_by: "sh".into(),
            name: "app:1".into(),
        }
    }

    #[test]
    fn an_image_that_is_saved_is_its_parent_and_a_layer_more() {
        let zstd = zstd::encode_all(&b"lower"[..], 1).unwrap();
        let diff_id = Digest::of(b"lower").to_string();
        let parent = json!({ "architecture": "amd64", "os": "linux", "unknown": 7, "container": "x",
            "config": { "Cmd": ["old"], "User": "www" },
            "rootfs": { "type": "layers", "diff_ids": [diff_id, diff_id] } });
        let layers = [(); 2].map(|()| (file(&zstd), diff_id.as_str())).into();
        let out = tempfile::NamedTempFile::new().unwrap();
        write(out.reopen().unwrap(), layers, file(b"upper"), &order(&parent), &Budget::new(100)).unwrap();
        let plain = tempfile::tempdir().unwrap();
        let archive =
            ImageArchive::open("saved", out.reopen().unwrap(), &plain.path().join("plain"), 1 << 20).unwrap();
        let image = archive.image().unwrap();
        let names: Vec<_> = image.layers.iter().map(|layer| layer.name.clone()).collect();
        assert_eq!(names, [Digest::of(b"lower"), Digest::of(b"lower"), Digest::of(b"upper")]);
        let config: Value = serde_json::from_str(&image.configuration).unwrap();
        assert_eq!(config["config"], json!({ "Cmd": ["new"], "User": "www" }));
        assert_eq!((config.get("container"), &config["unknown"]), (None, &json!(7)));
        assert_eq!(config["history"][0]["created_by"], "sh");
    }

    #[test]
    fn a_layer_that_is_not_what_it_should_be_is_no_part_of_it() {
        let expected = Digest::of(b"lower").to_string();
        let layers = vec![(file(b"other"), expected.as_str())];
        let out = tempfile::tempfile().unwrap();
        let error = write(out, layers, file(b""), &order(&json!({})), &Budget::new(100)).unwrap_err();
        assert!(error.to_string().contains("a layer has digest"), "{error}");
    }
}
