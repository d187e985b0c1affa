//! Writing archives.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use tar::{Builder, EntryType, Header};

/// Before the name of an extended attribute among PAX headers.
pub const PAX_XATTRS: &str = "SCHILY.xattr.";
/// Before the name of those that are overlayfs's own.
pub const OVERLAY_XATTRS: &str = "trusted.overlay.";

/// Writes entries with their extended attributes, and a file that has several names once.
pub struct Packer<'a, W: Write> {
    builder: Builder<&'a mut W>,
    /// The first name of each file that has several.
    names: HashMap<(u64, u64), PathBuf>,
}

impl<'a, W: Write> Packer<'a, W> {
    /// One that writes to `out`.
    pub fn new(out: &'a mut W) -> Self {
        let mut builder = Builder::new(out);
        builder.follow_symlinks(false);
        Self { builder, names: HashMap::new() }
    }

    /// The same for a layer: not everyone who reads layers knows sparse files.
    pub fn of_layer(out: &'a mut W) -> Self {
        let mut packer = Self::new(out);
        packer.builder.sparse(false);
        packer
    }

    /// Writes an empty file, whose name is what matters.
    pub fn add_mark(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.builder.append_data(&mut header, name, io::empty())
    }

    /// Writes what is at `path`, under the name `name`.
    pub fn add(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        if metadata.nlink() > 1 && !metadata.is_dir() {
            let file = (metadata.dev(), metadata.ino());
            if let Some(first) = self.names.get(&file) {
                let mut header = Header::new_gnu();
                header.set_metadata(metadata);
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.builder.append_link(&mut header, name, first);
            }
            self.names.insert(file, name.to_owned());
        }
        let attributes = attributes(path)?;
        let extensions = attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(extensions)?;
        match special(metadata) {
            Some(kind) => self.add_special(name, metadata, kind),
            None => self.builder.append_path_with_name(path, name),
        }
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<()> {
        self.builder.finish()
    }

    /// The library gives such an entry its path on disk for a name.
    fn add_special(&mut self, name: &Path, metadata: &Metadata, kind: EntryType) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_entry_type(kind);
        header.set_size(0);
        let number = |number: u64| u32::try_from(number).map_err(io::Error::other);
        header.set_device_major(number(major(metadata.rdev()))?)?;
        header.set_device_minor(number(minor(metadata.rdev()))?)?;
        self.builder.append_data(&mut header, name, io::empty())
    }
}

/// What has no content but a number.
fn special(metadata: &Metadata) -> Option<EntryType> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_char_device() => Some(EntryType::Char),
        () if kind.is_block_device() => Some(EntryType::Block),
        () if kind.is_fifo() => Some(EntryType::Fifo),
        () => None,
    }
}

/// A file's extended attributes, as PAX headers name them. Those that are overlayfs's own are no part of it.
fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = match xattr::list(path) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        names => names?,
    };
    let mut found = Vec::new();
    for name in names {
        let Some(text) = name.to_str().filter(|text| !text.starts_with(OVERLAY_XATTRS)) else { continue };
        if let Some(value) = xattr::get(path, &name)? {
            found.push((format!("{PAX_XATTRS}{text}"), value));
        }
    }
    Ok(found)
}
