//! An image's layers as they come, from a registry or an archive, and the file system that is made of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::budget::Budget;
use crate::decompress::decompress;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::merge::add_layer;
use crate::section::Section;
use crate::squash;
use crate::tree::Tree;

/// Most bytes of an image's configuration.
pub const CONFIG_MAX: u64 = 4 << 20;
const LAYERS_MAX: usize = 127;

/// Fails if an image cannot have so many layers.
pub fn check_number(image: &str, layers: usize, configuration: &ImageConfiguration) -> Result<()> {
    let known = configuration.rootfs().diff_ids().len();
    let reason = match layers {
        0 => "it has no layers".into(),
        1..=LAYERS_MAX if known == layers => return Ok(()),
        1..=LAYERS_MAX => format!("it has {layers} layers and {known} diff_ids"),
        more => format!("it has {more} layers, {LAYERS_MAX} are possible"),
    };
    Err(Error::Invalid { image: image.to_owned(), reason })
}

/// Whether a layer of this media type is kept elsewhere than its image.
pub fn is_foreign(media_type: &str) -> bool {
    ["foreign", "nondistributable"].iter().any(|word| media_type.contains(word))
}

/// The layers of an image, the lowest first. Each is unpacked as soon as it comes, while others are still on their way.
pub struct Layers {
    image: String,
    folder: PathBuf,
    budget: Arc<Budget>,
    unpacked: Vec<(Digest, JoinHandle<std::result::Result<File, String>>)>,
}

impl Layers {
    /// An image without layers yet. Together they may have `limit` bytes, uncompressed, which are kept in `folder` meanwhile.
    pub fn new(image: String, folder: &Path, limit: u64) -> Self {
        Self { image, folder: folder.to_owned(), budget: Arc::new(Budget::new(limit)), unpacked: Vec::new() }
    }

    /// Adds the next layer, which errors call `name` and whose content must have the digest `diff_id`.
    pub fn add(&mut self, name: Digest, blob: Section, diff_id: &str) {
        let (folder, budget, diff_id) = (self.folder.clone(), Arc::clone(&self.budget), diff_id.to_owned());
        let work = spawn_blocking(move || unpack(blob, &folder, &budget, &diff_id));
        self.unpacked.push((name, work));
    }

    /// Writes their union to the new file `out`.
    pub async fn file_system(self, out: &Path) -> Result<()> {
        let mut archives = Vec::new();
        for (name, unpacked) in self.unpacked {
            let archive = unpacked.await.map_err(|_| Error::Lost(self.image.clone()))?;
            let bad = |reason| Error::Layer { image: self.image.clone(), layer: name.clone(), reason };
            let archive = archive.map_err(bad)?;
            archives.push((name, archive));
        }
        let (image, budget, out) = (self.image.clone(), self.budget, out.to_owned());
        let work = spawn_blocking(move || unite(&image, archives, &budget, &out));
        work.await.map_err(|_| Error::Lost(self.image))?
    }
}

/// The content of a layer, in a file without a name.
fn unpack(
    mut blob: Section,
    folder: &Path,
    budget: &Budget,
    diff_id: &str,
) -> std::result::Result<File, String> {
    let mut archive = tempfile::tempfile_in(folder).map_err(|e| e.to_string())?;
    let found = decompress(&mut blob, &mut archive, budget).map_err(|e| e.to_string())?;
    if found.to_string() == diff_id {
        Ok(archive)
    } else {
        Err(format!("its content has digest {found}, not {diff_id}"))
    }
}

fn unite(image: &str, layers: Vec<(Digest, File)>, budget: &Budget, out: &Path) -> Result<()> {
    let mut tree = Tree::default();
    let mut archives = Vec::new();
    for (number, (name, mut archive)) in layers.into_iter().enumerate() {
        add_layer(&mut tree, number, &mut archive, budget).map_err(|e| Error::Layer {
            image: image.to_owned(),
            layer: name,
            reason: e.to_string(),
        })?;
        archives.push(archive);
    }
    squash::write(&tree, &mut archives, out)
        .map_err(|e| Error::Store { image: image.to_owned(), reason: e.to_string() })
}
