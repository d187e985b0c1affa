//! The merged file tree of an image's layers, without the files' data.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::path::{Path, split};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const ROOT: EntryId = EntryId(0);

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
    Symlink(Arc<[u8]>),
    /// A character device.
    CharDevice { major: u32, minor: u32 },
    /// A block device.
    BlockDevice { major: u32, minor: u32 },
    /// A named pipe.
    Fifo,
}

/// What is at an entry of a layer, and of the tree. Entries with the same `inode` are names of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub xattrs: Arc<Xattrs>,
    /// The layer that has its data.
    pub layer: usize,
    pub inode: u64,
}

/// How large a tree may be. What it takes in memory follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeLimits {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of names, of links' targets and of extended attributes.
    pub metadata: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { entries: 1_000_000, metadata: 128 << 20 }
    }
}

/// Why an entry cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("it has more than {0} entries")]
    TooMany(usize),
    #[error("its names, links and extended attributes have more than {0} bytes")]
    TooMuch(usize),
    #[error("its root is no directory")]
    Root,
    #[error("{link:?} is a hard link to {target:?}, which is not there")]
    LostLink { link: String, target: String },
}

/// The tree. Each name is kept once, below its directory: a path that is long costs no more than its parts.
#[derive(Debug)]
pub struct Tree {
    limits: TreeLimits,
    slots: Vec<Slot>,
    /// Slots that are not in use.
    free: Vec<usize>,
    /// Bytes that count towards [`TreeLimits::metadata`].
    metadata: usize,
    /// Whether a layer has an entry for the root.
    has_root: bool,
    /// Files with more names than one.
    linked: HashSet<u64>,
    next_inode: u64,
}

/// Which of a tree's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(usize);

#[derive(Debug)]
struct Slot {
    parent: EntryId,
    name: Arc<[u8]>,
    /// The layer that has this name.
    layer: usize,
    node: Node,
    children: BTreeMap<Arc<[u8]>, EntryId>,
    /// The layer that has hidden all that lower ones have below.
    cleared_by: Option<usize>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(TreeLimits::default())
    }
}

impl Tree {
    /// An empty tree with these limits.
    pub fn new(limits: TreeLimits) -> Self {
        let root = Slot {
            parent: ROOT,
            name: Arc::default(),
            layer: 0,
            node: directory(0, 0),
            children: BTreeMap::new(),
            cleared_by: None,
        };
        Self {
            limits,
            slots: vec![root],
            free: Vec::new(),
            metadata: 0,
            has_root: false,
            linked: HashSet::new(),
            next_inode: 0,
        }
    }

    /// Takes an entry of layer `node.layer`, or the whiteout that its name says it is.
    pub fn add(&mut self, path: &[u8], mut node: Node) -> Result<(), TreeError> {
        let layer = node.layer;
        let (parent, name) = split(path);
        if name == OPAQUE {
            if let Some(directory) = self.find(parent) {
                self.hide_below(directory, layer);
            }
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let parent = self.find(parent);
            if let Some(target) = parent.and_then(|parent| self.slot(parent).children.get(hidden).copied()) {
                self.hide_below(target, layer);
                self.remove_if_lower(target, layer);
            }
            return Ok(());
        }
        node.inode = self.new_inode();
        let xattrs = node.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let target = if let Kind::Symlink(target) = &node.kind { target.len() } else { 0 };
        self.count(xattrs + target)?;
        self.put(path, node, layer)
    }

    /// Makes `path` another name of `target`, for layer `layer`.
    pub fn link(&mut self, path: &[u8], target: &[u8], layer: usize) -> Result<(), TreeError> {
        let found = self.find(target).map(|found| &self.slot(found).node);
        let Some(node) = found.filter(|node| node.kind != Kind::Directory) else {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Err(TreeError::LostLink { link: text(path), target: text(target) });
        };
        let node = node.clone();
        self.linked.insert(node.inode);
        self.put(path, node, layer)
    }

    /// All entries but the root, each directory before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> {
        let mut next = vec![ROOT];
        std::iter::from_fn(move || {
            let entry = next.pop()?;
            next.extend(self.slot(entry).children.values().rev());
            Some(entry)
        })
        .skip(1)
    }

    /// The path of an entry.
    pub fn path(&self, entry: EntryId) -> Path {
        let mut parts = Vec::new();
        let mut at = entry;
        while at != ROOT {
            parts.push(&*self.slot(at).name);
            at = self.slot(at).parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// What is there.
    pub fn node(&self, entry: EntryId) -> &Node {
        &self.slot(entry).node
    }

    /// Whether an entry's file has, or had, other names.
    pub fn is_linked(&self, entry: EntryId) -> bool {
        self.linked.contains(&self.slot(entry).node.inode)
    }

    /// The root directory, if a layer has an entry for it.
    pub fn root(&self) -> Option<&Node> {
        self.has_root.then(|| self.node(ROOT))
    }

    fn put(&mut self, path: &[u8], node: Node, layer: usize) -> Result<(), TreeError> {
        if path.is_empty() {
            if node.kind != Kind::Directory {
                return Err(TreeError::Root);
            }
            self.has_root = true;
            self.slot_mut(ROOT).node = node;
            return Ok(());
        }
        let mut at = ROOT;
        let (parents, name) = split(path);
        // Every part of a path is a directory; what is something else in a lower layer is hidden by one.
        for part in parents.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            at = match self.slot(at).children.get(part) {
                Some(child) if self.slot(*child).node.kind == Kind::Directory => *child,
                _ => {
                    let inode = self.new_inode();
                    self.put_in(at, part, directory(layer, inode), layer)?
                }
            };
        }
        self.put_in(at, name, node, layer).map(drop)
    }

    fn put_in(
        &mut self,
        parent: EntryId,
        name: &[u8],
        node: Node,
        layer: usize,
    ) -> Result<EntryId, TreeError> {
        if let Some(entry) = self.slot(parent).children.get(name).copied() {
            if node.kind != Kind::Directory || self.slot(entry).node.kind != Kind::Directory {
                self.remove_children(entry);
            }
            let slot = self.slot_mut(entry);
            (slot.node, slot.layer) = (node, layer);
            return Ok(entry);
        }
        self.count(name.len())?;
        if self.slots.len() - self.free.len() > self.limits.entries {
            return Err(TreeError::TooMany(self.limits.entries));
        }
        let name: Arc<[u8]> = name.into();
        let slot = Slot {
            parent,
            name: Arc::clone(&name),
            layer,
            node,
            children: BTreeMap::new(),
            cleared_by: None,
        };
        let entry = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                EntryId(index)
            }
            None => {
                self.slots.push(slot);
                EntryId(self.slots.len() - 1)
            }
        };
        self.slot_mut(parent).children.insert(name, entry);
        Ok(entry)
    }

    /// Removes what layers lower than `layer` have below a directory, at any depth. What `layer` has there stays, and so does a
    /// lower directory around that. However many whiteouts a layer has, it looks at each entry once.
    fn hide_below(&mut self, directory: EntryId, layer: usize) {
        let is_cleared = |tree: &Self, entry| tree.slot(entry).cleared_by == Some(layer);
        let mut around = directory;
        loop {
            if is_cleared(self, around) {
                return;
            }
            if around == ROOT {
                break;
            }
            around = self.slot(around).parent;
        }
        let mut below = Vec::new();
        let mut next = vec![directory];
        while let Some(entry) = next.pop() {
            if !is_cleared(self, entry) {
                let children = self.slot(entry).children.values();
                below.extend(children.clone());
                next.extend(children);
            }
        }
        // Those deeper down come later.
        for entry in below.into_iter().rev() {
            self.remove_if_lower(entry, layer);
        }
        self.slot_mut(directory).cleared_by = Some(layer);
    }

    fn remove_if_lower(&mut self, entry: EntryId, layer: usize) {
        let slot = self.slot(entry);
        if slot.layer < layer && slot.children.is_empty() {
            let (parent, name) = (slot.parent, Arc::clone(&slot.name));
            self.slot_mut(parent).children.remove(&name);
            self.release(entry);
        }
    }

    fn remove_children(&mut self, entry: EntryId) {
        let mut next: Vec<_> = std::mem::take(&mut self.slot_mut(entry).children).into_values().collect();
        while let Some(entry) = next.pop() {
            next.extend(std::mem::take(&mut self.slot_mut(entry).children).into_values());
            self.release(entry);
        }
    }

    fn release(&mut self, entry: EntryId) {
        let slot = self.slot_mut(entry);
        slot.node = directory(0, 0);
        slot.name = Arc::default();
        self.free.push(entry.0);
    }

    /// Counts what is kept of an entry beside its name. What is hidden later still counts: the layers have it.
    pub fn count(&mut self, bytes: usize) -> Result<(), TreeError> {
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > self.limits.metadata {
            return Err(TreeError::TooMuch(self.limits.metadata));
        }
        Ok(())
    }

    fn find(&self, path: &[u8]) -> Option<EntryId> {
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        parts.try_fold(ROOT, |at, part| self.slot(at).children.get(part).copied())
    }

    fn slot(&self, entry: EntryId) -> &Slot {
        &self.slots[entry.0]
    }

    fn slot_mut(&mut self, entry: EntryId) -> &mut Slot {
        &mut self.slots[entry.0]
    }

    fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }
}

/// A directory that no layer describes.
fn directory(layer: usize, inode: u64) -> Node {
    Node {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Arc::default(),
        layer,
        inode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::normalize;

    fn node(kind: Kind, layer: usize) -> Node {
        Node { kind, mode: 0o644, uid: 0, gid: 0, mtime: 0, xattrs: Arc::default(), layer, inode: 0 }
    }

    fn file(layer: usize) -> Node {
        node(Kind::File { offset: 0, size: 0 }, layer)
    }

    fn names(tree: &Tree) -> Vec<String> {
        tree.entries().map(|entry| String::from_utf8(tree.path(entry)).unwrap()).collect()
    }

    /// Entries are `layer path`, with a slash at the end for a directory and `@` for a symbolic link.
    fn tree(entries: &[(usize, &str)]) -> Vec<String> {
        let mut tree = Tree::default();
        for (layer, path) in entries {
            let kind = match path.as_bytes() {
                [.., b'/'] => Kind::Directory,
                [.., b'@'] => Kind::Symlink(b"/etc"[..].into()),
                _ => Kind::File { offset: 0, size: 0 },
            };
            let path = normalize(path.trim_end_matches('@').as_bytes()).unwrap();
            tree.add(&path, node(kind, *layer)).unwrap();
        }
        names(&tree)
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
    fn a_tree_of_too_much_is_refused() {
        let limits = TreeLimits { entries: 3, metadata: 1000 };
        let mut tree = Tree::new(limits);
        for name in ["a", "b", "c"] {
            tree.add(name.as_bytes(), file(0)).unwrap();
        }
        tree.add(b"a", file(0)).unwrap();
        assert_eq!(tree.add(b"d", file(0)), Err(TreeError::TooMany(3)));
        tree.add(b".wh.a", file(1)).unwrap();
        tree.add(b"d", file(1)).unwrap();
        let mut tree = Tree::new(limits);
        let xattrs = Arc::new(vec![("user.a".to_owned(), vec![0; 1000])]);
        assert_eq!(tree.add(b"a", Node { xattrs, ..file(0) }), Err(TreeError::TooMuch(1000)));
        let long = Kind::Symlink(vec![b'x'; 1001].into());
        assert_eq!(Tree::new(limits).add(b"a", node(long, 0)), Err(TreeError::TooMuch(1000)));
        assert_eq!(Tree::new(limits).add(&[b'x'; 1001], file(0)), Err(TreeError::TooMuch(1000)));
        assert_eq!(Tree::new(limits).add(b"", file(0)), Err(TreeError::Root));
    }

    #[test]
    fn hard_links_share_their_inode_and_their_attributes() {
        let mut tree = Tree::new(TreeLimits { entries: 3000, metadata: 1 << 20 });
        let xattrs = Arc::new(vec![("user.a".to_owned(), vec![0; 1 << 19])]);
        tree.add(b"a", Node { xattrs, ..file(0) }).unwrap();
        for number in 0..2000 {
            tree.link(format!("d/{number}").as_bytes(), b"a", 1).unwrap();
        }
        tree.add(b".wh.a", file(1)).unwrap();
        tree.add(b"d/.wh.0", file(1)).unwrap();
        let left: Vec<_> = tree.entries().map(|entry| tree.node(entry).inode).collect();
        assert_eq!(
            (left.len(), left[1]),
            (2001, 1),
            "the file lives on under its other names, which are this layer's"
        );
        assert!(tree.is_linked(tree.find(b"d/1").unwrap()) && !tree.is_linked(tree.find(b"d").unwrap()));
        assert!(matches!(tree.link(b"c", b"gone", 1), Err(TreeError::LostLink { .. })));
    }

    #[test]
    fn a_lower_directory_stays_around_what_a_layer_puts_there() {
        let entries =
            [(0, "a/"), (0, "a/b/"), (0, "a/b/old"), (0, "a/c"), (1, "a/b/new"), (1, ".wh..wh..opq")];
        assert_eq!(tree(&entries), ["a", "a/b", "a/b/new"]);
    }

    /// The slowest orders of markers and entries that there are: each entry is looked at once in a layer, or this takes days.
    #[test]
    fn whiteouts_without_end_come_to_an_end() {
        const MANY: usize = 50_000;
        let mut tree = Tree::default();
        let deep = vec!["d"; 500].join("/");
        for number in 0..MANY {
            tree.add(format!("{deep}/{number}").as_bytes(), file(1)).unwrap();
            tree.add(format!("wide/{number}/x").as_bytes(), file(0)).unwrap();
        }
        for layer in [1, 2] {
            for depth in (1..=500).rev().chain(1..=500) {
                let place = vec!["d"; depth].join("/");
                tree.add(format!("{place}/.wh..wh..opq").as_bytes(), file(layer)).unwrap();
            }
            for number in 0..MANY {
                tree.add(format!("wide/{number}/.wh..wh..opq").as_bytes(), file(layer)).unwrap();
                tree.add(b"wide/.wh..wh..opq", file(layer)).unwrap();
                tree.add(b".wh.wide", file(layer)).unwrap();
            }
        }
        assert_eq!(names(&tree), ["d"], "nothing hides the first one itself");
    }
}
