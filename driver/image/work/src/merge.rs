//! Reads layers' archives into one tree.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use tar::{Archive, Entry, EntryType};

use crate::budget::Budget;
use crate::headers;
use crate::path::normalize;
use crate::sparse::{self, PaxSparse, Sparse};
use crate::tree::{Kind, Node, Tree, Xattrs};

const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// Most bytes of one entry's extended attributes, with their names: squashfs takes few more.
const XATTRS_MAX: usize = 60 << 10;

/// Adds the entries of layer number `layer` to `tree`. Files that `archive` holds sparsely are written out behind it,
/// as far as `budget` lets them.
pub fn add_layer(tree: &mut Tree, layer: usize, archive: &mut File, budget: &Budget) -> io::Result<()> {
    headers::check(archive, 0, archive.metadata()?.len())?;
    archive.rewind()?;
    let mut reader = Reader { file: archive.try_clone()?, tree, layer, free: 0, budget, sparse: Vec::new() };
    reader.free = sparse::behind(archive.metadata()?.len());
    let mut entries = Archive::new(BufReader::new(&*archive));
    for entry in entries.entries_with_seek()? {
        reader.add(entry?)?;
    }
    if !reader.sparse.is_empty() {
        archive.set_len(reader.free)?;
    }
    reader.sparse.iter().try_for_each(|(sparse, start)| sparse.unpack(archive, *start))
}

struct Reader<'a> {
    file: File,
    tree: &'a mut Tree,
    layer: usize,
    /// Where the next sparse file is written out.
    free: u64,
    budget: &'a Budget,
    /// Those to be written out, and where.
    sparse: Vec<(Sparse, u64)>,
}

impl Reader<'_> {
    fn add<R: Read>(&mut self, mut entry: Entry<'_, R>) -> io::Result<()> {
        let pax = Pax::of(&mut entry)?;
        let path = match pax.sparse.name() {
            Some(name) => normalize(name).map_err(invalid)?,
            None => normalize(&entry.path_bytes()).map_err(invalid)?,
        };
        let header = entry.header();
        let old = header.as_old();
        let mode = unless_blank(&old.mode, header.mode())? & 0o7777;
        let (uid, gid) = (unless_blank(&old.uid, header.uid())?, unless_blank(&old.gid, header.gid())?);
        let mtime = pax.mtime.or(header.mtime().ok()).unwrap_or(0);
        let kind = match header.entry_type() {
            EntryType::Link => {
                let target =
                    entry.link_name_bytes().map(|name| normalize(&name)).transpose().map_err(invalid)?;
                let target = target.ok_or_else(|| invalid("a hard link without a target"))?;
                return self.tree.link(&path, &target, self.layer).map_err(invalid);
            }
            EntryType::XGlobalHeader => return Ok(()),
            EntryType::GNUSparse => {
                let sparse = Sparse::old_gnu(&entry, &self.file)?;
                self.keep(sparse)?
            }
            EntryType::Regular | EntryType::Continuous => match pax.sparse.parts(&entry, &self.file)? {
                Some(sparse) => self.keep(sparse)?,
                None => Kind::File { offset: entry.raw_file_position(), size: entry.size() },
            },
            _ => special(&entry)?,
        };
        let node =
            Node { kind, mode, uid, gid, mtime, xattrs: pax.xattrs.into(), layer: self.layer, inode: 0 };
        self.tree.add(&path, node).map_err(invalid)
    }

    /// Finds a place for a sparse file behind the archive.
    fn keep(&mut self, sparse: Sparse) -> io::Result<Kind> {
        let size = sparse.size();
        self.budget.take(size)?;
        self.tree.count(sparse.size_of_map()).map_err(invalid)?;
        let offset = self.free;
        self.free = sparse::behind(offset + size);
        self.sparse.push((sparse, offset));
        Ok(Kind::File { offset, size })
    }
}

/// A number that a header leaves out counts as none, as other readers have it.
fn unless_blank<T: Default>(field: &[u8], number: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(T::default()) } else { number }
}

/// What is no file.
fn special<R: Read>(entry: &Entry<'_, R>) -> io::Result<Kind> {
    Ok(match entry.header().entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => {
            let target = entry.link_name_bytes().map(|name| name[..].into());
            Kind::Symlink(target.ok_or_else(|| invalid("a symbolic link without a target"))?)
        }
        EntryType::Char => {
            let (major, minor) = device(entry)?;
            Kind::CharDevice { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = device(entry)?;
            Kind::BlockDevice { major, minor }
        }
        EntryType::Fifo => Kind::Fifo,
        other => return Err(invalid(format!("entries of type {other:?} are not supported"))),
    })
}

fn device<R: Read>(entry: &Entry<'_, R>) -> io::Result<(u32, u32)> {
    let header = entry.header();
    Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
}

/// What PAX headers say of an entry, beside what the library makes of them.
#[derive(Default)]
struct Pax {
    xattrs: Xattrs,
    sparse: PaxSparse,
    /// Whole seconds: squashfs has no others.
    mtime: Option<u64>,
}

impl Pax {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let mut found = Self::default();
        let mut size = 0;
        let Some(extensions) = entry.pax_extensions()? else { return Ok(found) };
        for extension in extensions {
            let extension = extension?;
            let (Ok(key), value) = (extension.key(), extension.value_bytes()) else { continue };
            if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                size += name.len() + value.len();
                if size > XATTRS_MAX {
                    return Err(invalid(format!(
                        "an entry's extended attributes have more than {XATTRS_MAX} bytes"
                    )));
                }
                found.xattrs.push((name.to_owned(), value.to_vec()));
            } else if key == "mtime" {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                found.mtime = std::str::from_utf8(whole).ok().and_then(|text| text.parse().ok());
            } else {
                found.sparse.take(key, value)?;
            }
        }
        Ok(found)
    }
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

    const LIMIT: u64 = 1 << 30;

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
        add_layer(&mut tree, 0, &mut file, &Budget::new(LIMIT)).unwrap();
        let nodes: Vec<_> = tree.entries().map(|entry| tree.node(entry)).collect();
        let names: Vec<_> =
            tree.entries().map(|entry| String::from_utf8(tree.path(entry)).unwrap()).collect();
        assert_eq!(names, ["bin", "bin/sh", "bin/su", "bin/su2"]);
        assert_eq!(nodes[1].kind, Kind::Symlink(b"../../busybox"[..].into()));
        let su = nodes[2];
        assert_eq!((su.mode, su.uid, su.gid, nodes[3].inode), (0o4755, 7, 8, su.inode));
        assert_eq!(*su.xattrs, [("security.capability".to_owned(), vec![1, 0])]);
        let Kind::File { offset, size } = su.kind else { panic!("no file") };
        let mut text = String::new();
        data(&mut file, offset, size).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn numbers_that_a_header_leaves_out_are_zero() {
        let mut raw = Header::new_gnu();
        raw.set_path("blank").unwrap();
        raw.set_entry_type(EntryType::Regular);
        raw.set_size(0);
        raw.set_cksum();
        let mut file = archive(|builder| builder.append(&raw, io::empty()).unwrap());
        let mut tree = Tree::default();
        add_layer(&mut tree, 0, &mut file, &Budget::new(LIMIT)).unwrap();
        let node = tree.node(tree.entries().next().unwrap());
        assert_eq!((node.mode, node.uid, node.gid), (0, 0, 0));
        raw.as_old_mut().uid = *b"nonsense";
        raw.set_cksum();
        let mut file = archive(|builder| builder.append(&raw, io::empty()).unwrap());
        assert!(add_layer(&mut Tree::default(), 0, &mut file, &Budget::new(LIMIT)).is_err());
    }

    #[test]
    fn a_layer_that_climbs_out_is_refused() {
        let mut raw = header(EntryType::Regular, 0);
        raw.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
        raw.set_cksum();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(raw.as_bytes()).unwrap();
        file.write_all(&[0; 1024]).unwrap();
        let error =
            add_layer(&mut Tree::default(), 0, &mut file, &Budget::new(LIMIT)).unwrap_err().to_string();
        assert!(error.contains("climbs out of the root"), "{error}");
    }

    /// What GNU tar makes of a file with holes, and what is in that file.
    fn sparse_archive(form: &[&str]) -> (File, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holes");
        let mut content = vec![0; 3 << 20];
        let mut file = File::create(&path).unwrap();
        // More parts than the header of the old form has room for.
        for (number, place) in (0..3 << 20).step_by(64 << 10).enumerate() {
            let text = format!("part {number}");
            content[place..place + text.len()].copy_from_slice(text.as_bytes());
            file.seek(SeekFrom::Start(place as u64)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        file.set_len(content.len() as u64).unwrap();
        let out = folder.path().join("archive");
        let status = std::process::Command::new("tar")
            .args(form)
            .args(["--sparse", "-cf"])
            .arg(&out)
            .args(["-C", folder.path().to_str().unwrap(), "holes"])
            .status()
            .unwrap();
        assert!(status.success());
        (File::options().read(true).write(true).open(out).unwrap(), content)
    }

    #[test]
    fn sparse_files_of_every_form_are_whole() {
        let forms: [&[&str]; 3] = [
            &["--format=gnu"],
            &["--format=posix", "--sparse-version=0.1"],
            &["--format=posix", "--sparse-version=1.0"],
        ];
        for form in forms {
            let (mut file, content) = sparse_archive(form);
            assert!(file.metadata().unwrap().len() < 1 << 20, "it is sparse");
            let mut tree = Tree::default();
            add_layer(&mut tree, 0, &mut file, &Budget::new(LIMIT)).unwrap();
            let entry = tree.entries().next().unwrap();
            let (path, node) = (tree.path(entry), tree.node(entry));
            let Kind::File { offset, size } = node.kind else { panic!("no file") };
            assert_eq!((path.as_slice(), size), (&b"holes"[..], content.len() as u64), "{form:?}");
            let mut found = Vec::new();
            data(&mut file, offset, size).unwrap().read_to_end(&mut found).unwrap();
            let first = found.iter().zip(&content).position(|(a, b)| a != b);
            assert_eq!((first, found.len()), (None, content.len()), "{form:?}");
            let error =
                add_layer(&mut Tree::default(), 0, &mut file, &Budget::new(1000)).unwrap_err().to_string();
            assert!(error.contains("more than the 1000 bytes"), "{error}");
        }
    }

    #[test]
    fn a_form_that_is_not_known_is_refused() {
        let (mut file, _) = sparse_archive(&["--format=posix", "--sparse-version=0.0"]);
        let error =
            add_layer(&mut Tree::default(), 0, &mut file, &Budget::new(LIMIT)).unwrap_err().to_string();
        assert!(error.contains("form 0.0"), "{error}");
    }
}
