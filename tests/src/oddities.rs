//! Layers with all that a layer can hold and that tools like to get wrong, below `odd`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::sandboxes::shell;

/// `cap_net_bind_service=ep` (capabilities(7), version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LONG_AGO: u64 = 1;
/// The year 2096.
const FAR_AWAY: u64 = 4_000_000_000;
const USUAL: u64 = 1_700_000_000;

/// Writes the layers into `folder`.
pub fn layers(folder: &Path) -> Vec<PathBuf> {
    let [lower, sparse, upper] = ["lower.tar", "sparse.tar", "upper.tar"].map(|name| folder.join(name));
    lower_layer(Layer::new(&lower));
    // umoci does not know GNU's old form.
    shell(
        "mkdir odd && printf start >odd/holes && truncate -s 10M odd/holes && printf end >>odd/holes
         tar --format=posix --sparse --owner=0 --group=0 --mtime=@1700000000 -cf sparse.tar odd/holes && rm -r odd",
        folder,
    );
    upper_layer(Layer::new(&upper));
    vec![lower, sparse, upper]
}

fn lower_layer(mut layer: Layer) {
    layer.directory("odd", 0o755);
    layer.file("odd/setuid", 0o4755, b"setuid");
    layer.directory("odd/sticky", 0o1777);
    layer.file("odd/secret", 0, b"secret");
    layer.file("odd/empty", 0o644, b"");
    layer.file("odd/one", 0o640, b"three names");
    layer.directory("odd/sub", 0o750);
    layer.link(EntryType::Link, "odd/sub/two", "odd/one");
    layer.link(EntryType::Link, "odd/three", "odd/one");
    layer.xattrs(&[("security.capability", &CAPABILITY), ("user.note", b"kept")]);
    layer.file("odd/capable", 0o755, b"capable");
    layer.xattrs(&[("user.note", b"of a directory")]);
    layer.directory("odd/noted", 0o755);
    layer.device(EntryType::Char, "odd/null", 1, 3);
    layer.device(EntryType::Block, "odd/disk", 259, 70_000);
    layer.device(EntryType::Fifo, "odd/pipe", 0, 0);
    layer.directory("odd/names", 0o755);
    let names: [&[u8]; 10] = [
        b"Case",
        b"case",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"caf\xe9 of Latin-1",
        b"new\nline",
        b" spaces ",
        b"-dash",
        b"not.wh.a-whiteout",
        &[b'l'; 255],
    ];
    for name in names {
        layer.file(OsStr::from_bytes(&[b"odd/names/", name].concat()), 0o644, name);
    }
    for depth in 1..60 {
        layer.directory(&format!("odd/{}", ["deep"; 60][..depth].join("/")), 0o755);
    }
    let deep = ["deep"; 60].join("/");
    layer.file(format!("odd/{deep}"), 0o644, b"deep");
    layer.directory("odd/links", 0o755);
    for (name, target) in [
        ("dangling", "nowhere"),
        ("absolute", "/etc/passwd"),
        ("up", "../../../../one"),
        ("long", &"x".repeat(300)),
    ] {
        layer.link(EntryType::Symlink, &format!("odd/links/{name}"), target);
    }
    (layer.uid, layer.gid) = (100_000, 3_000_000_000);
    layer.file("odd/of-somebody", 0o644, b"owned");
    (layer.uid, layer.gid) = (0, 0);
    for (name, time) in [("old", LONG_AGO), ("young", FAR_AWAY)] {
        layer.mtime = time;
        layer.file(format!("odd/{name}"), 0o644, b"");
    }
    layer.mtime = USUAL;
    layer.directory("odd/becomes-file", 0o755);
    layer.file("odd/becomes-file/x", 0o644, b"x");
    layer.file("odd/becomes-directory", 0o644, b"x");
    layer.link(EntryType::Symlink, "odd/link-becomes-directory", "sub");
    layer.directory("odd/opaque", 0o755);
    layer.file("odd/opaque/hidden", 0o644, b"x");
    layer.directory("odd/opaque/hidden-too", 0o755);
    layer.file("odd/gone", 0o644, b"x");
    layer.directory("odd/gone-directory", 0o755);
    layer.file("odd/gone-directory/x", 0o644, b"x");
    layer.finish();
}

fn upper_layer(mut layer: Layer) {
    layer.directory("odd", 0o711);
    layer.file("odd/becomes-file", 0o600, b"now a file");
    layer.directory("odd/becomes-directory", 0o755);
    layer.file("odd/becomes-directory/y", 0o644, b"y");
    layer.directory("odd/link-becomes-directory", 0o755);
    layer.file("odd/link-becomes-directory/z", 0o644, b"z");
    layer.directory("odd/opaque", 0o755);
    layer.file("odd/opaque/.wh..wh..opq", 0, b"");
    layer.file("odd/opaque/new", 0o644, b"new");
    layer.file("odd/.wh.gone", 0, b"");
    layer.file("odd/.wh.gone-directory", 0, b"");
    layer.file("odd/.wh.three", 0, b"");
    layer.finish();
}

/// An archive that is being written.
struct Layer {
    builder: Builder<File>,
    uid: u64,
    gid: u64,
    mtime: u64,
}

impl Layer {
    fn new(path: &Path) -> Self {
        Self { builder: Builder::new(File::create(path).unwrap()), uid: 0, gid: 0, mtime: USUAL }
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header
    }

    fn directory(&mut self, path: &str, mode: u32) {
        let mut header = self.header(EntryType::Directory, mode, 0);
        self.builder.append_data(&mut header, path, io::empty()).unwrap();
    }

    fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) {
        let mut header = self.header(EntryType::Regular, mode, content.len() as u64);
        self.builder.append_data(&mut header, path, content).unwrap();
    }

    fn link(&mut self, kind: EntryType, path: &str, target: &str) {
        let mut header = self.header(kind, 0o777, 0);
        self.builder.append_link(&mut header, path, target).unwrap();
    }

    fn device(&mut self, kind: EntryType, path: &str, major: u32, minor: u32) {
        let mut header = self.header(kind, 0o660, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.builder.append_data(&mut header, path, io::empty()).unwrap();
    }

    /// Of the next entry.
    fn xattrs(&mut self, xattrs: &[(&str, &[u8])]) {
        let names: Vec<_> = xattrs.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let pairs = names.iter().map(String::as_str).zip(xattrs.iter().map(|(_, value)| *value));
        self.builder.append_pax_extensions(pairs).unwrap();
    }

    fn finish(mut self) {
        self.builder.finish().unwrap();
    }
}
