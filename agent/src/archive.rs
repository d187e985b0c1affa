//! Part of a container's files as a tar archive, in a process whose root is the container's: no link leads out of it.

use std::fs::{self, Metadata};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{chdir, chroot};
use serde_json::{Value, json};

use crate::layer;
use crate::named::named;
use crate::packer::Packer;
use crate::unpacker::unpack;

/// What is done with which path of a container.
#[derive(Debug, Clone)]
pub enum ArchiveTask {
    /// Pack what is there.
    Pack(PathBuf),
    /// Unpack into this directory.
    Unpack(PathBuf),
    /// Pack what an overlay's upper directory has, as a layer.
    Changes,
}

impl ArchiveTask {
    /// Does it below `root`, by standard input and output.
    pub fn run(&self, root: &Path) -> io::Result<Option<Value>> {
        chroot(root)?;
        chdir("/")?;
        match self {
            Self::Pack(path) => {
                let path = Path::new("/").join(path);
                let mut out = BufWriter::new(io::stdout().lock());
                let stat = pack(&path, &mut out)?;
                out.flush()?;
                Ok(Some(stat))
            }
            Self::Changes => {
                let mut out = BufWriter::new(io::stdout().lock());
                layer::pack(Path::new("/"), &mut out)?;
                out.flush()?;
                Ok(None)
            }
            Self::Unpack(path) => {
                unpack(&Path::new("/").join(path), BufReader::new(io::stdin().lock()))?;
                Ok(None)
            }
        }
    }
}

/// Packs a file, or a directory with all that is in it, under its own name.
fn pack(path: &Path, out: &mut impl Write) -> io::Result<Value> {
    let metadata = fs::symlink_metadata(path).map_err(named(path))?;
    let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let stat = describe(path, &name, &metadata)?;
    let mut packer = Packer::new(out);
    let mut waiting = vec![(path.to_owned(), name)];
    while let Some((path, name)) = waiting.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            // It went in the meantime, or cannot be packed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Ok(metadata) if metadata.file_type().is_socket() => continue,
            found => found.map_err(named(&path))?,
        };
        if metadata.is_dir() {
            let mut entries = fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>().map_err(named(&path))?;
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            waiting.extend(
                entries.iter().map(|entry| (path.join(entry.file_name()), name.join(entry.file_name()))),
            );
        }
        packer.add(&path, &name, &metadata).map_err(named(&path))?;
    }
    packer.finish()?;
    Ok(stat)
}

/// What the host is told of what is packed: its type and permissions as inode(7) has them.
fn describe(path: &Path, name: &Path, metadata: &Metadata) -> io::Result<Value> {
    let link_target = match metadata.file_type().is_symlink() {
        true => fs::read_link(path)?.to_string_lossy().into_owned(),
        false => String::new(),
    };
    Ok(json!({
        "name": if name == Path::new(".") { "/".into() } else { name.to_string_lossy() },
        "size": metadata.size(),
        "mode": metadata.mode(),
        "mtime": metadata.mtime(),
        "mtime_nanoseconds": metadata.mtime_nsec(),
        "link_target": link_target,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tar::{Archive, Builder, EntryType};

    use super::*;

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("below")).unwrap();
        fs::write(tree.join("below/file"), "text").unwrap();
        fs::set_permissions(tree.join("below/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/etc/passwd", tree.join("link")).unwrap();
        fs::hard_link(tree.join("below/file"), tree.join("other-name")).unwrap();
        for name in ["below/file", "below"] {
            xattr::set(tree.join(name), "user.note", b"kept").unwrap();
        }
        nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let old = File::open(tree.join("below")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        let mut packed = Vec::new();
        let stat = pack(&tree, &mut packed).unwrap();
        assert_eq!((&stat["name"], stat["mode"].as_u64().unwrap() & 0o170_000), (&json!("tree"), 0o040_000));

        let mut entries = Archive::new(&packed[..]);
        let pipes =
            entries.entries().unwrap().map(Result::unwrap).filter(|e| e.header().entry_type().is_fifo());
        let names: Vec<_> = pipes.map(|entry| entry.path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("tree/pipe")]);

        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        unpack(&other, &packed[..]).unwrap();
        let file = other.join("tree/below/file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(other.join("tree/link")).unwrap(), Path::new("/etc/passwd"));
        assert!(!other.join("tree/socket").exists());
        let inode = |name: &str| fs::metadata(other.join(name)).unwrap().ino();
        assert_eq!(inode("tree/below/file"), inode("tree/other-name"));
        for name in ["tree/below/file", "tree/below"] {
            assert_eq!(xattr::get(other.join(name), "user.note").unwrap().unwrap(), b"kept");
        }
        assert_eq!(fs::metadata(other.join("tree/below")).unwrap().mtime(), 1_000_000_000);
        let pipe = fs::metadata(other.join("tree/pipe")).unwrap();
        assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o777 == 0o700, "{pipe:?}");
        // What is there gives way.
        unpack(&other, &packed[..]).unwrap();

        let stat = pack(&tree.join("link"), &mut Vec::new()).unwrap();
        assert_eq!(stat["link_target"], "/etc/passwd");
        let error = pack(&tree.join("none"), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("tree/none"), "{error}");
    }

    #[test]
    fn what_is_no_archive_or_climbs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = unpack(&folder.path().join("none"), &b""[..]).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        assert!(unpack(folder.path(), &[7; 2048][..]).is_err());
        for kind in [EntryType::Regular, EntryType::Fifo, EntryType::Directory] {
            let error = unpack(folder.path(), &archive_of("../escape", kind)[..]).unwrap_err();
            assert!(error.to_string().contains("escape"), "{error}");
            assert!(!folder.path().with_file_name("escape").exists());
        }
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        symlink("..", inside.join("up")).unwrap();
        for kind in [EntryType::Regular, EntryType::Fifo] {
            let error = unpack(&inside, &archive_of("up/escape", kind)[..]).unwrap_err();
            assert!(error.to_string().contains("escape"), "{error}");
            assert!(!folder.path().join("escape").exists());
        }
    }

    fn archive_of(name: &str, kind: EntryType) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }
}
