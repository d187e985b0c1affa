//! What a container has changed in its image, as a layer: what overlayfs keeps in its upper directory, in the words of the
//! OCI image specification (`layer.md`).

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::packer::Packer;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const REDIRECT_XATTR: &str = "trusted.overlay.redirect";
/// Files that are there for something to be mounted on, if they are empty.
const MOUNT_POINTS: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// Packs the upper directory `upper`.
pub fn pack(upper: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut packer = Packer::of_layer(out);
    let mut waiting = entries(upper)?;
    while let Some(path) = waiting.pop() {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let name = path.strip_prefix(upper).map_err(io::Error::other)?;
        let metadata = fs::symlink_metadata(&path).map_err(named)?;
        if metadata.is_dir() {
            add_directory(&mut packer, &path, name, &metadata).map_err(named)?;
            waiting.extend(entries(&path).map_err(named)?);
        } else if is_whiteout(&metadata) {
            packer.add_mark(&hidden(name)).map_err(named)?;
        } else if !metadata.file_type().is_socket() && !is_mount_point(name, &metadata) {
            packer.add(&path, name, &metadata).map_err(named)?;
        }
    }
    packer.finish()
}

fn add_directory(
    packer: &mut Packer<'_, impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    if xattr::get(path, REDIRECT_XATTR)?.is_some() {
        return Err(io::Error::other("it was renamed as a whole, which a layer cannot say"));
    }
    packer.add(path, name, metadata)?;
    if xattr::get(path, OPAQUE_XATTR)?.is_some_and(|value| value == b"y") {
        packer.add_mark(&name.join(OPAQUE))?;
    }
    Ok(())
}

/// What is in a directory, the last first.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by(|one, other| other.cmp(one));
    Ok(entries)
}

/// Overlayfs keeps in mind that something is gone by a device without a number.
fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn hidden(name: &Path) -> PathBuf {
    let mut mark = OsString::from(WHITEOUT);
    mark.push(name.file_name().unwrap_or(OsStr::new("")));
    name.with_file_name(mark)
}

fn is_mount_point(name: &Path, metadata: &Metadata) -> bool {
    metadata.len() == 0 && MOUNT_POINTS.iter().any(|point| Path::new(point) == name)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use tar::Archive;

    use super::*;

    #[test]
    fn what_is_gone_and_what_is_opaque_is_said_as_layers_say_it() {
        let folder = tempfile::tempdir().unwrap();
        let upper = folder.path();
        fs::create_dir_all(upper.join("etc")).unwrap();
        for name in ["etc/hosts", "etc/hostname", "etc/own"] {
            fs::write(upper.join(name), "").unwrap();
        }
        fs::write(upper.join("etc/resolv.conf"), "changed").unwrap();
        fs::create_dir(upper.join("opaque")).unwrap();
        mknod(&upper.join("gone"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
        xattr::set(upper.join("opaque"), OPAQUE_XATTR, b"y").unwrap();
        let mut packed = Vec::new();
        pack(upper, &mut packed).unwrap();
        let names: Vec<_> = Archive::new(&packed[..])
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert!(entry.header().uid().is_ok() && entry.header().gid().is_ok());
                entry.path().unwrap().display().to_string()
            })
            .collect();
        let expected = ["etc", "etc/own", "etc/resolv.conf", ".wh.gone", "opaque", "opaque/.wh..wh..opq"];
        assert_eq!(names.iter().map(|name| name.trim_end_matches('/')).collect::<Vec<_>>(), expected);
    }
}
