//! An image in one file: what `docker save` writes, or an OCI layout in a tar archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path as FilePath;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tar::{Archive, EntryType};

use crate::budget::Budget;
use crate::decompress::{Form, decompress, form};
use crate::digest::Digest;
use crate::layers::{CONFIG_MAX, check_number, is_foreign};
use crate::orders::{Fault, FoundImage, Layer, Piece};
use crate::path::{Path, normalize};
use crate::platform::is_for_us;
use crate::section::Section;

/// What `docker save` calls its table of contents.
const DOCKER_MANIFEST: &str = "manifest.json";
/// What an OCI layout calls it (image-spec, `image-layout.md`).
const OCI_INDEX: &str = "index.json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST_MAX: u64 = 4 << 20;
/// Most entries of an archive, in which each layer has a handful.
const ENTRIES_MAX: usize = 10_000;
/// Most links from one entry to the next.
const LINKS_MAX: usize = 8;
/// Most indexes that lead from one to the next.
const INDEXES_MAX: usize = 4;

/// An archive, by its entries.
pub struct ImageArchive {
    /// The file in which its entries are.
    file: String,
    entries: HashMap<Path, Entry>,
}

type Result<T> = std::result::Result<T, Fault>;

enum Entry {
    Content(Section),
    Link(Path),
}

/// A line of `docker save`'s table of contents.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    layers: Vec<String>,
}

impl ImageArchive {
    /// Reads the list of entries of the archive `name` in `file`. One that is compressed as a whole is first unpacked into the new
    /// file `plain`, to `limit` bytes at most.
    pub fn open(name: &str, file: File, plain: &FilePath, limit: u64) -> Result<Self> {
        let mut name = name.to_owned();
        let mut content = Section::whole(file).map_err(invalid)?;
        if form(&mut content).map_err(invalid)? != Form::Plain {
            let unpacked = File::options().read(true).write(true).create_new(true).open(plain);
            let mut unpacked = unpacked.map_err(|e| Fault::Store(e.to_string()))?;
            decompress(&mut content, &mut unpacked, &Budget::new(limit)).map_err(invalid)?;
            content = Section::whole(unpacked).map_err(invalid)?;
            name = plain.display().to_string();
        }
        Ok(Self { file: name, entries: entries(&content).map_err(invalid)? })
    }

    /// The image, if there is one, and only one, for this platform.
    pub fn image(&self) -> Result<FoundImage> {
        if self.entries.contains_key(DOCKER_MANIFEST.as_bytes()) {
            self.docker_image()
        } else if self.entries.contains_key(OCI_INDEX.as_bytes()) {
            self.oci_image()
        } else {
            Err(invalid("it is neither what docker save writes nor an OCI layout in a tar archive"))
        }
    }

    fn docker_image(&self) -> Result<FoundImage> {
        let manifest = self.bytes(DOCKER_MANIFEST, MANIFEST_MAX)?;
        let images: Vec<DockerImage> = read(&manifest)?;
        let [image] = &images[..] else { return Err(ambiguous(images.len())) };
        let configuration = self.bytes(&image.config, CONFIG_MAX)?;
        check_named_digest(&image.config, &configuration)?;
        let layers = image.layers.iter().map(|path| Ok((None, path.clone()))).collect::<Result<_>>()?;
        self.found(Digest::of(&manifest), configuration, layers)
    }

    /// An image whose layers are at these paths, with their names where these are not their contents' digests.
    fn found(
        &self,
        manifest: Digest,
        configuration: Vec<u8>,
        layers: Vec<(Option<Digest>, String)>,
    ) -> Result<FoundImage> {
        let parsed: ImageConfiguration = read(&configuration)?;
        check_number(layers.len(), &parsed).map_err(Fault::Invalid)?;
        let diff_ids = parsed.rootfs().diff_ids().iter();
        let layer = |(diff_id, (name, path)): (&String, (Option<Digest>, String))| {
            let name = name.map_or_else(|| digest(diff_id), Ok)?;
            let (start, length) = self.find(&path)?.place();
            let content = Piece { file: self.file.clone(), start, length };
            Ok(Layer { name, content, diff_id: diff_id.clone() })
        };
        let layers = diff_ids.zip(layers).map(layer).collect::<Result<_>>()?;
        let configuration = String::from_utf8(configuration).map_err(invalid)?;
        Ok(FoundImage { manifest, configuration, layers })
    }

    fn oci_image(&self) -> Result<FoundImage> {
        let bytes = self.bytes(OCI_INDEX, MANIFEST_MAX)?;
        let chosen = self.choose(&bytes, INDEXES_MAX)?;
        let manifest = digest(chosen.digest().as_ref())?;
        let bytes = self.blob("the manifest", &chosen, MANIFEST_MAX)?;
        let content: ImageManifest = read(&bytes)?;
        let foreign = |layer: &&Descriptor| is_foreign(layer.media_type().as_ref());
        if let Some(foreign) = content.layers().iter().find(foreign) {
            return Err(invalid(format!("layer {} is a foreign one", foreign.digest())));
        }
        let configuration = self.blob("the configuration", content.config(), CONFIG_MAX)?;
        let layer = |layer: &Descriptor| {
            let digest = digest(layer.digest().as_ref())?;
            let path = blob_path(&digest);
            Ok((Some(digest), path))
        };
        self.found(manifest, configuration, content.layers().iter().map(layer).collect::<Result<_>>()?)
    }

    /// The manifest for this platform, in an index or in the indexes that it names.
    fn choose(&self, index: &[u8], indexes_left: usize) -> Result<Descriptor> {
        let index: ImageIndex = read(index)?;
        let fitting: Vec<_> = index.manifests().iter().filter(|entry| is_for_us(entry)).collect();
        let [chosen] = fitting[..] else { return Err(ambiguous(fitting.len())) };
        if !is_index(chosen.media_type()) {
            return Ok(chosen.clone());
        }
        if indexes_left == 0 {
            return Err(invalid("its index leads from one to the next without an end"));
        }
        self.choose(&self.blob("an index", chosen, MANIFEST_MAX)?, indexes_left - 1)
    }

    fn blob(&self, what: &'static str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let digest = digest(descriptor.digest().as_ref())?;
        let bytes = self.bytes(&blob_path(&digest), limit)?;
        check_digest(what, digest, &bytes)?;
        Ok(bytes)
    }

    fn bytes(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.find(path)?.to_vec(limit).map_err(|e| invalid(format!("{path}: {e}")))
    }

    /// An entry's content. Links are followed: old versions of `docker save` wrote a repeated layer as one.
    fn find(&self, path: &str) -> Result<Section> {
        let mut place = normalize(path.as_bytes()).map_err(invalid)?;
        for _ in 0..=LINKS_MAX {
            match self.entries.get(&place) {
                Some(Entry::Content(content)) => return Ok(content.clone()),
                Some(Entry::Link(target)) => place.clone_from(target),
                None => return Err(invalid(format!("{path} is not in it"))),
            }
        }
        Err(invalid(format!("{path} is a link without an end")))
    }
}

/// Checks a configuration that is named by its digest. Tools may name it otherwise.
fn check_named_digest(path: &str, bytes: &[u8]) -> Result<()> {
    let stem = FilePath::new(path).file_stem().unwrap_or_default().to_string_lossy();
    match Digest::from_hex(&stem) {
        Ok(expected) => check_digest("the configuration", expected, bytes),
        Err(_) => Ok(()),
    }
}

fn check_digest(what: &str, expected: Digest, bytes: &[u8]) -> Result<()> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(Fault::Digest { what: what.to_owned(), expected, found })
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(invalid)
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(invalid)
}

fn ambiguous(number: usize) -> Fault {
    match number {
        0 => Fault::Platform,
        more => invalid(format!("it holds {more} images: one can be run")),
    }
}

fn invalid(reason: impl ToString) -> Fault {
    Fault::Invalid(reason.to_string())
}

fn entries(content: &Section) -> io::Result<HashMap<Path, Entry>> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, format!("{e}"));
    content.check_headers()?;
    let mut found = HashMap::new();
    let mut archive = Archive::new(BufReader::new(content.clone()));
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = normalize(&entry.path_bytes()).map_err(invalid)?;
        let target = || entry.link_name_bytes().unwrap_or_default().into_owned();
        let kept = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                Entry::Content(content.part(entry.raw_file_position(), entry.size())?)
            }
            EntryType::Link => Entry::Link(normalize(&target()).map_err(invalid)?),
            EntryType::Symlink => match beside(&path, &target()) {
                Some(target) => Entry::Link(target),
                None => continue,
            },
            _ => continue,
        };
        found.insert(path, kept);
        if found.len() > ENTRIES_MAX {
            return Err(io::Error::other(format!("it has more than {ENTRIES_MAX} entries")));
        }
    }
    Ok(found)
}

/// Where a symbolic link at `path` leads, if it leads into the archive.
fn beside(path: &[u8], target: &[u8]) -> Option<Path> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex || media_type.to_string() == DOCKER_INDEX
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;
    use tar::{Builder, Header};

    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn archive(entries: &[(&str, &[u8])]) -> Builder<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder
    }

    fn link(builder: &mut Builder<Vec<u8>>, path: &str, target: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, path, target).unwrap();
    }

    fn read(bytes: &[u8]) -> Result<FoundImage> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let folder = tempfile::tempdir().unwrap();
        ImageArchive::open("glance:x", file, &folder.path().join("plain"), LIMIT)?.image()
    }

    fn failure(bytes: &[u8]) -> String {
        read(bytes).err().unwrap().to_string()
    }

    fn configuration(layers: &[&[u8]]) -> Vec<u8> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        serde_json::to_vec(&json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs })).unwrap()
    }

    /// As Docker wrote them until its 25th version: the second layer is the first again.
    fn docker_archive() -> Builder<Vec<u8>> {
        let configuration = configuration(&[b"layer", b"layer"]);
        let name = format!("{}.json", Digest::of(&configuration).hex());
        let manifest =
            json!([{ "Config": name, "RepoTags": ["a:1"], "Layers": ["1/layer.tar", "2/layer.tar"] }]);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut builder =
            archive(&[("1/layer.tar", b"layer"), (&name, &configuration), ("manifest.json", &manifest)]);
        link(&mut builder, "2/layer.tar", "../1/layer.tar");
        builder
    }

    #[test]
    fn any_entries_are_an_image_or_refused() {
        let names = ["manifest.json", "index.json", "oci-layout", "blobs/sha256/a", "a/layer.tar"];
        let entries = bolero::generator::produce::<Vec<(u8, Vec<u8>)>>();
        bolero::check!().with_generator(entries).for_each(|entries| {
            let named: Vec<_> = entries
                .iter()
                .map(|(name, content)| (names[usize::from(*name) % names.len()], content.as_slice()))
                .collect();
            let _ = read(&archive(&named).into_inner().unwrap());
        });
    }

    #[test]
    fn what_docker_saves_is_read_compressed_or_not() {
        let plain = docker_archive().into_inner().unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for bytes in [plain, zstd] {
            let image = read(&bytes).unwrap();
            assert_eq!(image.layers.len(), 2);
        }
    }

    #[test]
    fn an_oci_layout_is_read_through_its_indexes() {
        let configuration = configuration(&[b"layer"]);
        let descriptor = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let text = |value| serde_json::to_vec(&value).unwrap();
        let layout = |layer_type: &str| {
            let manifest = text(json!({
                "schemaVersion": 2,
                "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
                "layers": [descriptor(layer_type, b"layer")],
            }));
            let mut ours = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
            ours["platform"] = json!({ "architecture": "amd64", "os": "linux" });
            let mut other = ours.clone();
            other["platform"]["architecture"] = "arm64".into();
            let inner = text(json!({ "schemaVersion": 2, "manifests": [other, ours] }));
            let outer = descriptor("application/vnd.oci.image.index.v1+json", &inner);
            let outer = text(json!({ "schemaVersion": 2, "manifests": [outer] }));
            let entries: [(&str, &[u8]); 5] = [
                ("index.json", &outer),
                (&blob(&inner), &inner),
                (&blob(&manifest), &manifest),
                (&blob(&configuration), &configuration),
                (&blob(b"layer"), b"layer"),
            ];
            archive(&entries).into_inner().unwrap()
        };
        let image = read(&layout("application/vnd.oci.image.layer.v1.tar")).unwrap();
        assert_eq!(image.configuration.as_bytes(), configuration);
        let error = failure(&layout("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"));
        assert!(error.contains("is a foreign one"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(failure(b"").contains("neither what docker save writes nor an OCI layout"));
        assert!(read(&[7; 2048]).is_err());
        let manifest = |value: serde_json::Value| {
            archive(&[("manifest.json", &serde_json::to_vec(&value).unwrap())]).into_inner().unwrap()
        };
        assert!(failure(&manifest(json!([]))).contains("no variant"));
        let image = json!({ "Config": "gone.json", "Layers": ["l"] });
        assert!(failure(&manifest(json!([image, image]))).contains("it holds 2 images"));
        assert!(failure(&manifest(json!([image]))).contains("gone.json is not in it"));
        let image = json!({ "Config": "../../etc/passwd", "Layers": ["l"] });
        assert!(failure(&manifest(json!([image]))).contains("climbs out"));
        let mut cut = docker_archive().into_inner().unwrap();
        cut.truncate(700);
        assert!(read(&cut).is_err());
    }

    #[test]
    fn a_configuration_that_is_not_what_its_name_says_is_refused() {
        let name = format!("{}.json", Digest::of(b"another").hex());
        let manifest = serde_json::to_vec(&json!([{ "Config": name, "Layers": ["l"] }])).unwrap();
        let archive = archive(&[("manifest.json", &manifest), (&name, &configuration(&[b"l"])), ("l", b"l")]);
        let error = failure(&archive.into_inner().unwrap());
        assert!(error.contains("the configuration has digest"), "{error}");
    }

    #[test]
    fn links_that_lead_nowhere_end() {
        let manifest = serde_json::to_vec(&json!([{ "Config": "a", "Layers": ["l"] }])).unwrap();
        let mut builder = archive(&[("manifest.json", &manifest)]);
        link(&mut builder, "a", "b");
        link(&mut builder, "b", "a");
        link(&mut builder, "out", "../../etc/passwd");
        assert!(failure(&builder.into_inner().unwrap()).contains("a link without an end"));
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = zstd::encode_all(&vec![0; 2 << 20][..], 1).unwrap();
        assert!(failure(&bomb).contains("more than the 1048576 bytes"));
    }
}
