//! Paths that somebody else chose, resolved so that they cannot leave where they belong.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use agent_protocol::messages::CopyFileRequest;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::error::{Error, Result};

/// Below which the host may write files.
const WRITABLE: &str = "/run";
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);
/// Largest file that the host may write; it lives in guest memory.
const FILE_MAX: i64 = 64 << 20;

/// Opens `path` for reading as a process whose root is `root` would.
pub fn open_beneath(root: &Path, path: &Path) -> Result<File> {
    let directory = File::open(root).map_err(Error::io(format!("open {}", root.display())))?;
    let fd = open_in(&directory, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
    Ok(File::from(fd.map_err(Error::io(format!("open {}", path.display())))?))
}

/// Makes the directory `path`, and those above it, as a process whose root is `root` would. Those that are there stay.
pub fn make_directories(root: &Path, path: &Path) -> Result<()> {
    let failed = || Error::io(format!("make {}", path.display()));
    let top = File::open(root).map_err(Error::io(format!("open {}", root.display())))?;
    let open = |path: &Path| open_in(&top, path, OFlag::O_PATH | OFlag::O_DIRECTORY);
    let (mut parent, mut so_far) = (open(Path::new("/")).map_err(failed())?, PathBuf::from("/"));
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        so_far.push(part);
        let opened = match open(&so_far) {
            Err(Errno::ENOENT) => {
                mkdirat(&parent, part.as_os_str(), DIRECTORY_MODE).and_then(|()| open(&so_far))
            }
            opened => opened,
        };
        parent = opened.map_err(failed())?;
    }
    Ok(())
}

fn open_in(root: &File, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(root, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

/// Writes a piece of a file below `/run`.
pub fn copy(request: &CopyFileRequest) -> Result<()> {
    let path = Path::new(&request.path);
    check(path)?;
    if request.file_size < 0 || request.file_size > FILE_MAX {
        return Err(refused(path, "the file is too large"));
    }
    let end = request.offset.checked_add(request.data.len() as i64);
    if request.offset < 0 || end.is_none_or(|end| end > request.file_size) {
        return Err(refused(path, "the piece lies outside the file"));
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(request.dir_mode & 0o7777)
            .create(parent)
            .map_err(Error::io(format!("make {}", parent.display())))?;
    }
    write_piece(path, request).map_err(Error::io(format!("write {}", path.display())))
}

fn write_piece(path: &Path, request: &CopyFileRequest) -> std::io::Result<()> {
    let mode = request.file_mode & 0o7777;
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(request.offset == 0)
        .mode(mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    file.seek(SeekFrom::Start(request.offset.unsigned_abs()))?;
    file.write_all(&request.data)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let owner = |id: i32| u32::try_from(id).ok();
    std::os::unix::fs::fchown(&file, owner(request.uid), owner(request.gid))
}

fn check(path: &Path) -> Result<()> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || !path.starts_with(WRITABLE) || path == Path::new(WRITABLE) {
        return Err(refused(path, "only paths below /run may be written"));
    }
    Ok(())
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::Path { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_outside_run_are_refused() {
        assert!(check(Path::new("/run/kata-containers/sandbox/hosts")).is_ok());
        for bad in ["/etc/passwd", "/run/../etc/passwd", "run/x", "/run", "/runx/y", ""] {
            assert!(check(Path::new(bad)).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn pieces_outside_the_file_are_refused() {
        let request = |file_size, offset, data: &[u8]| CopyFileRequest {
            path: "/run/x".into(),
            file_size,
            offset,
            data: data.to_vec(),
            ..Default::default()
        };
        assert!(copy(&request(2, 1, b"ab")).is_err());
        assert!(copy(&request(2, -1, b"a")).is_err());
        assert!(copy(&request(i64::MAX, i64::MAX, b"a")).is_err());
    }

    #[test]
    fn a_symbolic_link_stays_beneath_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/real"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/real", root.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/hostname", root.path().join("etc/out")).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(
            &mut open_beneath(root.path(), Path::new("etc/passwd")).unwrap(),
            &mut text,
        )
        .unwrap();
        assert_eq!(text, "inside");
        assert!(open_beneath(root.path(), Path::new("etc/out")).is_err());
    }

    #[test]
    fn directories_are_made_beneath_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink("/real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("out")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        for _ in 0..2 {
            make_directories(&root, Path::new("/link/a/b")).unwrap();
        }
        assert!(root.join("real/a/b").is_dir());
        for bad in ["out/x", "file/x", "file"] {
            assert!(make_directories(&root, Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
