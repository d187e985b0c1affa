//! Reading archives.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::syncfs;
use tar::{Archive, Entry, EntryType};

use crate::named::named;
use crate::packer::{OVERLAY_XATTRS, PAX_XATTRS};

/// Unpacks an archive into a directory.
pub fn unpack(path: &Path, archive: impl Read) -> io::Result<()> {
    if !fs::metadata(path).map_err(named(path))?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{} is no directory", path.display()),
        ));
    }
    let root = path.canonicalize()?;
    let mut archive = Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(true);
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let place = place(&root, &name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} climbs out of the archive"))
        })?;
        put(&mut entry, &root, &place).map_err(named(&name))?;
        if entry.header().entry_type().is_dir() {
            folders.push((place, entry.header().mtime()?));
        }
    }
    // What was put into a directory has changed its time.
    for (folder, mtime) in folders.into_iter().rev() {
        set_time(&folder, mtime).map_err(named(&folder))?;
    }
    // Whoever is told that it is there will not hand it over again.
    Ok(syncfs(File::open(&root)?)?)
}

/// Where an entry goes. None is given of one that climbs.
fn place(root: &Path, name: &Path) -> Option<PathBuf> {
    let mut place = root.to_owned();
    for part in name.components() {
        match part {
            Component::Normal(part) => place.push(part),
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(place)
}

/// The library leaves directories without their extended attributes, makes plain files of devices and pipes, and lets no
/// hard link take the place of another file.
fn put<R: Read>(entry: &mut Entry<'_, R>, root: &Path, place: &Path) -> io::Result<()> {
    let kind = match entry.header().entry_type() {
        EntryType::Fifo => SFlag::S_IFIFO,
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        EntryType::Directory => {
            let attributes = attributes(entry)?;
            unpack_in(entry, root)?;
            return set_attributes(place, attributes);
        }
        EntryType::Link => return put_link(entry, root, place),
        _ => return unpack_in(entry, root),
    };
    put_special(entry, kind, root, place)
}

fn unpack_in<R: Read>(entry: &mut Entry<'_, R>, root: &Path) -> io::Result<()> {
    let is_inside = entry.unpack_in(root)?;
    if is_inside { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "it climbs out")) }
}

fn put_link<R: Read>(entry: &mut Entry<'_, R>, root: &Path, place: &Path) -> io::Result<()> {
    match unpack_in(entry, root) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let target = entry.link_name()?.and_then(|name| self::place(root, &name));
            if target.as_deref() == Some(place) {
                return Ok(());
            }
            fs::remove_file(place)?;
            unpack_in(entry, root)
        }
        other => other,
    }
}

fn put_special<R: Read>(entry: &mut Entry<'_, R>, kind: SFlag, root: &Path, place: &Path) -> io::Result<()> {
    let attributes = attributes(entry)?;
    let header = entry.header();
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { return Ok(()) };
    fs::create_dir_all(parent)?;
    // A link on the way may lead elsewhere in the container, but not there.
    let parent = parent.canonicalize()?;
    if !parent.starts_with(root) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a link leads it out of its directory"));
    }
    let place = parent.join(name);
    match fs::symlink_metadata(&place) {
        Ok(found) if !found.is_dir() => fs::remove_file(&place)?,
        _ => {}
    }
    let number = |number: Option<u32>| u64::from(number.unwrap_or(0));
    let device = makedev(number(header.device_major()?), number(header.device_minor()?));
    mknod(&place, kind, Mode::empty(), device)?;
    let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
    lchown(&place, Some(id(header.uid()?)?), Some(id(header.gid()?)?))?;
    fs::set_permissions(&place, Permissions::from_mode(header.mode()? & 0o7777))?;
    let mtime = header.mtime()?;
    set_attributes(&place, attributes)?;
    set_time(&place, mtime)
}

/// An entry's extended attributes but for those that are overlayfs's own.
fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        let name = extension.key().ok().and_then(|key| key.strip_prefix(PAX_XATTRS));
        if let Some(name) = name.filter(|name| !name.starts_with(OVERLAY_XATTRS)) {
            found.push((name.to_owned(), extension.value_bytes().to_owned()));
        }
    }
    Ok(found)
}

fn set_attributes(place: &Path, attributes: Vec<(String, Vec<u8>)>) -> io::Result<()> {
    attributes.into_iter().try_for_each(|(name, value)| xattr::set(place, name, &value))
}

fn set_time(place: &Path, seconds: u64) -> io::Result<()> {
    let time = TimeSpec::new(i64::try_from(seconds).map_err(io::Error::other)?, 0);
    Ok(utimensat(AT_FDCWD, place, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}
