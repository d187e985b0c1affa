//! Reads layers' archives into one tree.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use tar::{Archive, Entry, EntryType};

use crate::tree::{Kind, Node, Tree, Xattrs, normalize};

const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// Most bytes of one entry's extended attributes.
const XATTRS_MAX: usize = 1 << 20;

/// Adds the entries of layer number `layer` to `tree`.
pub fn add_layer(tree: &mut Tree, layer: usize, archive: &mut File) -> io::Result<()> {
    archive.rewind()?;
    let mut archive = Archive::new(BufReader::new(archive));
    for entry in archive.entries_with_seek()? {
        add_entry(tree, layer, entry?)?;
    }
    Ok(())
}

fn add_entry<R: Read>(tree: &mut Tree, layer: usize, mut entry: Entry<'_, R>) -> io::Result<()> {
    let path = normalize(&entry.path_bytes()).map_err(invalid)?;
    let kind = match entry.header().entry_type() {
        EntryType::Link => {
            let target = entry.link_name_bytes().map(|name| normalize(&name)).transpose().map_err(invalid)?;
            let target = target.ok_or_else(|| invalid("a hard link without a target"))?;
            return tree.link(path, &target, layer).map_err(invalid);
        }
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => {
            let target = entry.link_name_bytes().map(|name| name.into_owned());
            Kind::Symlink(target.ok_or_else(|| invalid("a symbolic link without a target"))?)
        }
        EntryType::Char => {
            let (major, minor) = device(&entry)?;
            Kind::CharDevice { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = device(&entry)?;
            Kind::BlockDevice { major, minor }
        }
        EntryType::Fifo => Kind::Fifo,
        EntryType::XGlobalHeader => return Ok(()),
        EntryType::Regular | EntryType::Continuous => {
            Kind::File { offset: entry.raw_file_position(), size: entry.size() }
        }
        other => return Err(invalid(format!("entries of type {other:?} are not supported"))),
    };
    let node = Node {
        kind,
        mode: entry.header().mode()? & 0o7777,
        uid: entry.header().uid()?,
        gid: entry.header().gid()?,
        mtime: entry.header().mtime().unwrap_or(0),
        xattrs: xattrs(&mut entry)?,
        layer,
        inode: 0,
    };
    tree.add(path, node).map_err(invalid)
}

fn device<R: Read>(entry: &Entry<'_, R>) -> io::Result<(u32, u32)> {
    let header = entry.header();
    Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
}

fn xattrs<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Xattrs> {
    let mut found = Xattrs::new();
    let mut size = 0;
    let Some(extensions) = entry.pax_extensions()? else { return Ok(found) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR_PREFIX)) else {
            continue;
        };
        size += extension.value_bytes().len();
        if size > XATTRS_MAX {
            return Err(invalid("an entry has too many extended attributes"));
        }
        found.push((name.to_owned(), extension.value_bytes().to_vec()));
    }
    Ok(found)
}

fn invalid(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// A reader of one file's data in its layer's archive.
pub fn data(archive: &mut File, offset: u64, size: u64) -> io::Result<impl Read + '_> {
    archive.seek(SeekFrom::Start(offset))?;
    Ok(archive.take(size))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tar::{Builder, Header};

    use super::*;

    fn archive(build: impl FnOnce(&mut Builder<&mut File>)) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let mut builder = Builder::new(&mut file);
        build(&mut builder);
        builder.finish().unwrap();
        drop(builder);
        file
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(size);
        header
    }

    #[test]
    fn entries_keep_what_they_are() {
        let mut file = archive(|builder| {
            builder.append_pax_extensions([("SCHILY.xattr.security.capability", &b"\x01\x00"[..])]).unwrap();
            builder.append_data(&mut header(EntryType::Regular, 3), "bin/su", &b"abc"[..]).unwrap();
            builder.append_link(&mut header(EntryType::Symlink, 0), "bin/sh", "../../busybox").unwrap();
            builder.append_link(&mut header(EntryType::Link, 0), "bin/su2", "bin/su").unwrap();
        });
        let mut tree = Tree::default();
        add_layer(&mut tree, 0, &mut file).unwrap();
        let nodes: Vec<_> = tree.iter().collect();
        let names: Vec<_> =
            nodes.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(names, ["bin", "bin/sh", "bin/su", "bin/su2"]);
        assert_eq!(nodes[1].1.kind, Kind::Symlink(b"../../busybox".to_vec()));
        let su = nodes[2].1;
        assert_eq!((su.mode, su.uid, su.gid, nodes[3].1.inode), (0o4755, 7, 8, su.inode));
        assert_eq!(su.xattrs, [("security.capability".to_owned(), vec![1, 0])]);
        let Kind::File { offset, size } = su.kind else { panic!("no file") };
        let mut text = String::new();
        data(&mut file, offset, size).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn a_layer_that_climbs_out_is_refused() {
        let mut raw = header(EntryType::Regular, 0);
        raw.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
        raw.set_cksum();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(raw.as_bytes()).unwrap();
        file.write_all(&[0; 1024]).unwrap();
        let error = add_layer(&mut Tree::default(), 0, &mut file).unwrap_err().to_string();
        assert!(error.contains("climbs out of the root"), "{error}");
    }
}
