//! Writes a tree as a squashfs image, through `tar2sqfs`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tar::{Builder, EntryType, Header};

use crate::merge::data;
use crate::tree::{EntryId, Kind, Node, Tree};

const PROGRAM: &str = "tar2sqfs";
/// Threads that compress: each takes memory, of which there is no more on a host with many processors.
const THREADS: &str = "4";
/// Fast to unpack in the guest.
const COMPRESSOR: &str = "lz4";

/// Writes `tree` to the new file `out`; `layers` are the archives that hold its files' data.
pub fn write(tree: &Tree, layers: &mut [File], out: &Path) -> io::Result<()> {
    let mut child = Command::new(PROGRAM)
        .args(["--quiet", "--no-skip", "--force", "--compressor", COMPRESSOR, "--num-jobs", THREADS])
        .arg(out)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{PROGRAM} cannot be run: {e}")))?;
    let written = match child.stdin.take() {
        Some(stdin) => write_archive(tree, layers, BufWriter::new(stdin)),
        None => Err(io::Error::other("no pipe")),
    };
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{PROGRAM}: {}", message.trim().replace('\n', "; "))));
    }
    written
}

/// Writes the tree as one archive: a file is written under its first name, its other names are links to that.
fn write_archive(tree: &Tree, layers: &mut [File], out: impl Write) -> io::Result<()> {
    let mut builder = Builder::new(out);
    let mut written: HashMap<u64, EntryId> = HashMap::new();
    if let Some(root) = tree.root() {
        add(&mut builder, b"./", root, layers)?;
    }
    for entry in tree.entries() {
        let (path, node) = (tree.path(entry), tree.node(entry));
        match written.get(&node.inode) {
            Some(first) => {
                let mut header = header(node);
                header.set_entry_type(EntryType::Link);
                builder.append_link(&mut header, name(&path), name(&tree.path(*first)))?;
            }
            None => {
                if tree.is_linked(entry) {
                    written.insert(node.inode, entry);
                }
                add(&mut builder, &path, node, layers)?;
            }
        }
    }
    builder.into_inner()?.flush()
}

fn add(builder: &mut Builder<impl Write>, path: &[u8], node: &Node, layers: &mut [File]) -> io::Result<()> {
    if !node.xattrs.is_empty() {
        let names: Vec<_> = node.xattrs.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let pairs =
            names.iter().map(String::as_str).zip(node.xattrs.iter().map(|(_, value)| value.as_slice()));
        builder.append_pax_extensions(pairs)?;
    }
    let mut header = header(node);
    match &node.kind {
        Kind::File { offset, size } => {
            header.set_size(*size);
            let layer = layers.get_mut(node.layer).ok_or_else(|| io::Error::other("a layer is missing"))?;
            builder.append_data(&mut header, name(path), data(layer, *offset, *size)?.take(*size))
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, name(path), name(target))
        }
        Kind::Directory => append_empty(builder, &mut header, EntryType::Directory, path),
        Kind::Fifo => append_empty(builder, &mut header, EntryType::Fifo, path),
        Kind::CharDevice { major, minor } => {
            set_device(&mut header, *major, *minor)?;
            append_empty(builder, &mut header, EntryType::Char, path)
        }
        Kind::BlockDevice { major, minor } => {
            set_device(&mut header, *major, *minor)?;
            append_empty(builder, &mut header, EntryType::Block, path)
        }
    }
}

fn append_empty(
    builder: &mut Builder<impl Write>,
    header: &mut Header,
    kind: EntryType,
    path: &[u8],
) -> io::Result<()> {
    header.set_entry_type(kind);
    builder.append_data(header, name(path), io::empty())
}

fn set_device(header: &mut Header, major: u32, minor: u32) -> io::Result<()> {
    header.set_device_major(major)?;
    header.set_device_minor(minor)
}

fn header(node: &Node) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid);
    header.set_gid(node.gid);
    header.set_mtime(node.mtime);
    header.set_size(0);
    header
}

fn name(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::path::normalize;

    fn node(kind: Kind, mode: u32) -> Node {
        Node { kind, mode, uid: 3, gid: 4, mtime: 5, xattrs: Arc::default(), layer: 0, inode: 0 }
    }

    #[test]
    fn an_archive_names_each_file_once() {
        let mut layer = tempfile::tempfile().unwrap();
        layer.write_all(b"..abc").unwrap();
        let mut tree = Tree::default();
        let path = |text: &str| normalize(text.as_bytes()).unwrap();
        tree.add(&path("a"), node(Kind::File { offset: 2, size: 3 }, 0o600)).unwrap();
        tree.link(&path("b"), b"a", 0).unwrap();
        tree.add(&path("d"), node(Kind::Directory, 0o1777)).unwrap();
        tree.add(&path("null"), node(Kind::CharDevice { major: 1, minor: 3 }, 0o666)).unwrap();
        tree.add(&path(&format!("d/{}", "long".repeat(40))), node(Kind::Symlink(b"../a"[..].into()), 0o777))
            .unwrap();
        let mut bytes = Vec::new();
        write_archive(&tree, &mut [layer], &mut bytes).unwrap();

        let mut archive = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().into_owned(), entry.header().entry_type(), text)
            })
            .collect();
        assert_eq!(entries[0], ("a".into(), EntryType::Regular, "abc".into()));
        assert_eq!((entries[1].0.to_str(), entries[1].1), (Some("b"), EntryType::Link));
        assert_eq!(entries.len(), 5);
        assert_eq!(entries[4].1, EntryType::Char);
    }
}
