//! Trees of files, entry by entry: as they lie in a folder, and as an archive has them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

/// What is said of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is, with its content or where it leads.
    pub kind: String,
    /// Permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u64, u64),
    /// Whole seconds.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first of its names, as far as it is text.
    pub first_name: String,
}

/// Entries by path, relative to the tree's root.
pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// What lies in `folder`; the folder itself is the empty path.
pub fn of_folder(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut files: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        let name = path.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (kind, is_directory) = (metadata.file_type(), metadata.is_dir());
        let device = || format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
        let kind = match () {
            () if is_directory => "directory".into(),
            () if kind.is_symlink() => link(fs::read_link(&path).unwrap().into_os_string().into_vec()),
            () if kind.is_char_device() => format!("character device {}", device()),
            () if kind.is_block_device() => format!("block device {}", device()),
            () if kind.is_fifo() => "pipe".into(),
            () => content(File::open(&path).unwrap()),
        };
        if is_directory {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.entry(metadata.ino()).or_default().push(name.clone());
        }
        let entry = Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid().into(), metadata.gid().into()),
            mtime: metadata.mtime(),
            xattrs: xattrs(&path),
            first_name: text(&name),
        };
        tree.insert(name, entry);
    }
    files.into_values().for_each(|names| give_first_name(&mut tree, names));
    tree
}

/// What an archive has below its directory `root`.
pub fn of_archive(archive: impl Read, root: &str) -> Tree {
    let mut tree = Tree::new();
    let mut names: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    let relative = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path)).strip_prefix(root).unwrap();
        path.as_os_str().as_bytes().to_vec()
    };
    for entry in Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = relative(&entry.path_bytes());
        let header = entry.header().clone();
        let device = || {
            format!("{}:{}", header.device_major().unwrap().unwrap(), header.device_minor().unwrap().unwrap())
        };
        let target = entry.link_name_bytes().map(|target| target.into_owned());
        let kind = match header.entry_type() {
            EntryType::Link => {
                let first = relative(&target.unwrap());
                tree.insert(path.clone(), tree[&first].clone());
                names.get_mut(&first).unwrap().push(path);
                continue;
            }
            EntryType::Directory => "directory".into(),
            EntryType::Symlink => link(target.unwrap()),
            EntryType::Char => format!("character device {}", device()),
            EntryType::Block => format!("block device {}", device()),
            EntryType::Fifo => "pipe".into(),
            EntryType::Regular | EntryType::GNUSparse => String::new(),
            other => panic!("{other:?}"),
        };
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().unwrap().into_iter().flatten().map(Result::unwrap) {
            if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
            }
        }
        let kind = if kind.is_empty() { content(&mut entry) } else { kind };
        names.insert(path.clone(), vec![path.clone()]);
        let entry = Entry {
            kind,
            mode: header.mode().unwrap() & 0o7777,
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            mtime: header.mtime().unwrap().try_into().unwrap(),
            xattrs,
            first_name: text(&path),
        };
        tree.insert(path, entry);
    }
    names.into_values().for_each(|names| give_first_name(&mut tree, names));
    tree
}

/// What one tree has that the other has not, one entry a line.
pub fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    let paths = expected.keys().chain(found.keys().filter(|path| !expected.contains_key(*path)));
    let differing = paths.filter(|path| expected.get(*path) != found.get(*path));
    differing
        .map(|path| {
            let name = String::from_utf8_lossy(path);
            format!("{name:?}: expected {:?}, found {:?}", expected.get(path), found.get(path))
        })
        .collect()
}

fn give_first_name(tree: &mut Tree, mut names: Vec<Vec<u8>>) {
    names.sort();
    for name in &names {
        tree.get_mut(name).unwrap().first_name = text(&names[0]);
    }
}

fn link(target: Vec<u8>) -> String {
    format!("link to {}", text(&target))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn content(mut file: impl Read) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return format!("file of {total} bytes, {:x?}", hash.finalize()),
            length => {
                hash.update(&buffer[..length]);
                total += length;
            }
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = xattr::list(path).into_iter().flatten();
    let value = |name: &OsStr| xattr::get(path, name).unwrap().unwrap_or_default();
    names.map(|name| (name.to_string_lossy().into_owned(), value(&name))).collect()
}
