//! The file system that is made of an image's layers.

use std::fs::File;
use std::path::Path;

use crate::budget::Budget;
use crate::decompress::decompress;
use crate::digest::Digest;
use crate::merge::add_layer;
use crate::orders::Fault;
use crate::section::Section;
use crate::squash;
use crate::tree::{Tree, TreeLimits};

/// The union of the layers so far.
pub struct FileSystem {
    tree: Tree,
    archives: Vec<File>,
}

impl FileSystem {
    /// One without layers, with these limits.
    pub fn new(limits: TreeLimits) -> Self {
        Self { tree: Tree::new(limits), archives: Vec::new() }
    }

    /// Adds the next layer, whose content must have the digest `diff_id`. Uncompressed it is kept in `folder`, as far as
    /// `budget` lets it. Tells what is wrong with it.
    pub fn add(
        &mut self,
        mut layer: Section,
        diff_id: &Digest,
        folder: &Path,
        budget: &Budget,
    ) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        let mut archive = tempfile::tempfile_in(folder).map_err(text)?;
        let found = decompress(&mut layer, &mut archive, budget).map_err(text)?;
        if found != *diff_id {
            return Err(format!("its content has digest {found}, not {diff_id}"));
        }
        add_layer(&mut self.tree, self.archives.len(), &mut archive, budget).map_err(text)?;
        self.archives.push(archive);
        Ok(())
    }

    /// Writes the union to the new file `out`.
    pub fn write(&mut self, out: &Path) -> Result<(), Fault> {
        squash::write(&self.tree, &mut self.archives, out).map_err(|e| Fault::Store(e.to_string()))
    }
}
