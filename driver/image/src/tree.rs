//! The merged file tree of an image's layers, without the files' data.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Most entries of one image.
const ENTRIES_MAX: usize = 1_000_000;
/// Longest path in bytes, Linux's own limit.
const PATH_MAX: usize = 4096;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path relative to the root, without empty parts, `.` and `..`; the root is empty.
pub type Path = Vec<u8>;

/// Extended attributes by name.
pub type Xattrs = Vec<(String, Vec<u8>)>;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, whose data lies in its layer's archive at an offset.
    File { offset: u64, size: u64 },
    /// A symbolic link, never followed here.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice { major: u32, minor: u32 },
    /// A block device.
    BlockDevice { major: u32, minor: u32 },
    /// A named pipe.
    Fifo,
}

/// An entry of a layer, and of the tree. Entries with the same `inode` are names of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub xattrs: Xattrs,
    pub layer: usize,
    pub inode: u64,
}

/// Why an entry cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("{0:?} climbs out of the root")]
    Escape(String),
    #[error("{0:?} is too long a path")]
    TooLong(String),
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
    #[error("{link:?} is a hard link to {target:?}, which is not there")]
    LostLink { link: String, target: String },
}

/// The tree.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<Path, Node>,
    next_inode: u64,
}

/// Brings a path of an archive into the tree's form.
pub fn normalize(path: &[u8]) -> Result<Path, TreeError> {
    let text = || String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
    if path.len() > PATH_MAX {
        return Err(TreeError::TooLong(text()));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(TreeError::Escape(text())),
            part if part.contains(&0) => return Err(TreeError::Escape(text())),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

impl Tree {
    /// Takes an entry of layer `node.layer`, or the whiteout that its name says it is.
    pub fn add(&mut self, path: Path, mut node: Node) -> Result<(), TreeError> {
        let (parent, name) = split(&path);
        if name == OPAQUE {
            self.remove_below(parent, node.layer);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let target = join(parent, hidden);
            self.remove_lower(&target, node.layer);
            return Ok(());
        }
        self.make_parents(parent, node.layer)?;
        node.inode = self.new_inode();
        self.put(path, node)
    }

    /// Makes `path` another name of `target`, for layer `layer`.
    pub fn link(&mut self, path: Path, target: &[u8], layer: usize) -> Result<(), TreeError> {
        let Some(node) = self.nodes.get(target).filter(|node| node.kind != Kind::Directory) else {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Err(TreeError::LostLink { link: text(&path), target: text(target) });
        };
        let node = node.clone();
        let (parent, _) = split(&path);
        self.make_parents(parent, layer)?;
        self.put(path, node)
    }

    /// All entries but the root, each directory before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().filter(|(path, _)| !path.is_empty())
    }

    /// The root directory, if a layer has an entry for it.
    pub fn root(&self) -> Option<&Node> {
        self.nodes.get(&Path::new())
    }

    fn put(&mut self, path: Path, node: Node) -> Result<(), TreeError> {
        let both_directories = node.kind == Kind::Directory
            && self.nodes.get(&path).is_some_and(|old| old.kind == Kind::Directory);
        if !both_directories {
            self.remove_children(&path);
        }
        self.nodes.insert(path, node);
        if self.nodes.len() > ENTRIES_MAX { Err(TreeError::TooMany) } else { Ok(()) }
    }

    /// Every part of a path is a directory; what is something else in a lower layer is hidden by one.
    fn make_parents(&mut self, path: &[u8], layer: usize) -> Result<(), TreeError> {
        if path.is_empty() || self.nodes.get(path).is_some_and(|node| node.kind == Kind::Directory) {
            return Ok(());
        }
        self.make_parents(split(path).0, layer)?;
        let inode = self.new_inode();
        let directory = Node {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Xattrs::new(),
            layer,
            inode,
        };
        self.put(path.to_vec(), directory)
    }

    /// Removes what lower layers have at `path`.
    fn remove_lower(&mut self, path: &[u8], layer: usize) {
        self.remove_below(path, layer);
        if self.nodes.get(path).is_some_and(|node| node.layer < layer) && !self.has_children(path) {
            self.nodes.remove(path);
        }
    }

    /// Removes what lower layers have in the directory `path`.
    fn remove_below(&mut self, path: &[u8], layer: usize) {
        for child in self.children(path) {
            if self.nodes.get(&child).is_some_and(|node| node.layer < layer) {
                self.nodes.remove(&child);
            }
        }
    }

    fn remove_children(&mut self, path: &[u8]) {
        for child in self.children(path) {
            self.nodes.remove(&child);
        }
    }

    fn has_children(&self, path: &[u8]) -> bool {
        self.range(path).next().is_some()
    }

    fn children(&self, path: &[u8]) -> Vec<Path> {
        self.range(path).map(|(path, _)| path.clone()).collect()
    }

    /// The entries below `path`, at any depth.
    fn range(&self, path: &[u8]) -> impl Iterator<Item = (&Path, &Node)> {
        let (start, end) = if path.is_empty() {
            (Bound::Excluded(Path::new()), Bound::Unbounded)
        } else {
            // Below `a` lies what is after `a/` and before `a0`, the byte after the slash.
            ([path, b"/"].concat(), [path, b"0"].concat()).into_bounds()
        };
        self.nodes.range::<Path, _>((start, end))
    }

    fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }
}

trait IntoBounds {
    fn into_bounds(self) -> (Bound<Path>, Bound<Path>);
}

impl IntoBounds for (Path, Path) {
    fn into_bounds(self) -> (Bound<Path>, Bound<Path>) {
        (Bound::Included(self.0), Bound::Excluded(self.1))
    }
}

/// A path's directory and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Path {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: Kind, layer: usize) -> Node {
        Node { kind, mode: 0o644, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new(), layer, inode: 0 }
    }

    fn file(layer: usize) -> Node {
        node(Kind::File { offset: 0, size: 0 }, layer)
    }

    /// Entries are `layer path`, with a slash at the end for a directory and `@` for a symbolic link.
    fn tree(entries: &[(usize, &str)]) -> Vec<String> {
        let mut tree = Tree::default();
        for (layer, path) in entries {
            let kind = match path.as_bytes() {
                [.., b'/'] => Kind::Directory,
                [.., b'@'] => Kind::Symlink(b"/etc".to_vec()),
                _ => Kind::File { offset: 0, size: 0 },
            };
            let path = normalize(path.trim_end_matches('@').as_bytes()).unwrap();
            tree.add(path, node(kind, *layer)).unwrap();
        }
        tree.iter().map(|(path, _)| String::from_utf8(path.clone()).unwrap()).collect()
    }

    #[test]
    fn paths_are_normalized_and_cannot_climb() {
        assert_eq!(normalize(b"./a//b/").unwrap(), b"a/b");
        assert_eq!(normalize(b"/a").unwrap(), b"a");
        assert_eq!(normalize(b"./").unwrap(), b"");
        assert!(normalize(b"a/../../etc").is_err());
        assert!(normalize(&vec![b'a'; 5000]).is_err());
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        assert_eq!(tree(&[(0, "a/"), (0, "a/x"), (0, "a/y"), (1, "a/.wh.x")]), ["a", "a/y"]);
        assert_eq!(tree(&[(0, "a/"), (0, "a/x"), (1, ".wh.a")]), Vec::<String>::new());
        assert_eq!(tree(&[(0, "a"), (1, "a"), (1, ".wh.a")]), ["a"], "a layer's own file stays");
        assert_eq!(tree(&[(0, "a/"), (0, "a/x"), (1, "a/n"), (1, "a/.wh..wh..opq")]), ["a", "a/n"]);
        assert_eq!(tree(&[(0, "ab"), (0, "a/"), (0, "a/x"), (0, "a.b"), (1, ".wh.a")]), ["a.b", "ab"]);
    }

    #[test]
    fn a_directory_hides_a_link_and_a_file_hides_a_directory() {
        assert_eq!(tree(&[(0, "bin@"), (1, "bin/sh")]), ["bin", "bin/sh"]);
        assert_eq!(tree(&[(0, "a/"), (0, "a/x"), (1, "a")]), ["a"]);
        assert_eq!(tree(&[(0, "a/"), (0, "a/x"), (1, "a/")]), ["a", "a/x"]);
        assert_eq!(tree(&[(0, "deep/er/file")]), ["deep", "deep/er", "deep/er/file"]);
    }

    #[test]
    fn a_directory_of_more_than_a_million_entries_is_refused() {
        let mut tree = Tree::default();
        for number in 1..ENTRIES_MAX {
            tree.add(format!("d/{number}").into_bytes(), file(0)).unwrap();
        }
        assert_eq!(tree.add(b"d/more".to_vec(), file(0)), Err(TreeError::TooMany));
    }

    #[test]
    fn hard_links_share_their_inode() {
        let mut tree = Tree::default();
        tree.add(b"a".to_vec(), file(0)).unwrap();
        tree.link(b"d/b".to_vec(), b"a", 1).unwrap();
        tree.add(b".wh.a".to_vec(), file(1)).unwrap();
        let left: Vec<_> = tree.iter().map(|(path, node)| (path.clone(), node.inode)).collect();
        assert_eq!(left[1], (b"d/b".to_vec(), 1), "the file lives on under its other name");
        assert!(matches!(tree.link(b"c".to_vec(), b"gone", 1), Err(TreeError::LostLink { .. })));
    }
}
