//! Layers that are small and would become large in the memory of who reads them.

use std::fs::File;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

/// An entry's header, root's and of mode 0644.
pub fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A layer in `folder` of what `write` writes.
pub fn layer(folder: &Path, write: impl FnOnce(&mut Builder<File>)) -> PathBuf {
    let path = folder.join("layer.tar");
    let mut builder = Builder::new(File::create(&path).unwrap());
    write(&mut builder);
    builder.finish().unwrap();
    path
}

/// A file with large extended attributes and thousands of names, each of which would have had them: gigabytes.
pub fn names(builder: &mut Builder<File>) {
    let value = vec![b'x'; 59 << 10];
    builder.append_pax_extensions([("SCHILY.xattr.user.a", &value[..])]).unwrap();
    builder.append_data(&mut header(EntryType::Regular, 1), "target", &b"x"[..]).unwrap();
    for number in 0..2000 {
        let name = format!("links/{number}");
        builder.append_link(&mut header(EntryType::Link, 0), name, "target").unwrap();
    }
}

/// Directories so deep that each name of a path is long: gigabytes, too.
pub fn depths(builder: &mut Builder<File>) {
    for number in 0..500 {
        let path = format!("{number}/{}file", "d/".repeat(1500));
        builder.append_data(&mut header(EntryType::Regular, 0), path, std::io::empty()).unwrap();
    }
}
