//! Files of NFS exports.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::connection::NfsFile;
use crate::error::{Error, Result};
use crate::program::{flush_device, must};

/// Nothing in an export is a program or a device of this host's. A server that does not answer for two minutes (20, 40 and 60 s)
/// is an error, as an iSCSI target is: a process that waits for its disk cannot be ended. To unmount by force ends what is
/// under way in all mounts that share a cache; here each volume has its own. What Cinder says comes after it.
const OPTIONS: &str = "nosuid,nodev,noexec,nosharecache,softerr,timeo=200,retrans=2";

const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);

/// The list of mounts. Looking at the mount point itself would ask the server.
const MOUNTS: &str = "/proc/self/mounts";

/// Mounts the export, if it is not mounted, and gives the path of the file.
pub async fn connect(file: &NfsFile, mounts: &Path) -> Result<PathBuf> {
    let folder = file.folder(mounts);
    if !is_mounted(&folder)? {
        fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
        let options = [OPTIONS, file.mount_options()].join(",");
        let target = text(&folder)?;
        let arguments = ["-t", "nfs", "-o", options.trim_end_matches(','), &file.export, &target];
        let mounted = must("mount", &format!("mount {}", file.export), &arguments, &[]).await;
        if mounted.is_err() {
            // It is empty.
            let _ = fs::remove_dir(&folder);
        }
        mounted?;
    }
    let path = folder.join(&file.name);
    let metadata = tokio::fs::symlink_metadata(&path).await.map_err(Error::io("find", &path))?;
    if metadata.is_file() { Ok(path) } else { Err(Error::NoFile(path)) }
}

/// Writes what the kernel still holds of the file.
pub async fn flush(file: &NfsFile, mounts: &Path) -> Result<()> {
    let folder = file.folder(mounts);
    if is_mounted(&folder)? { flush_device(folder.join(&file.name)).await } else { Ok(()) }
}

/// Unmounts the export. If its server does not answer, what was not written to it is lost.
pub async fn disconnect(file: &NfsFile, mounts: &Path) -> Result<()> {
    let folder = file.folder(mounts);
    if is_mounted(&folder)? {
        unmount(file, &folder).await?;
    }
    match fs::remove_dir(&folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &folder)(e)),
        _ => Ok(()),
    }
}

/// Tries repeatedly: each attempt ends what waits for the server, such as a flush that was given up, but that keeps the mount busy
/// a moment longer.
async fn unmount(file: &NfsFile, folder: &Path) -> Result<()> {
    let purpose = format!("unmount {}", file.export);
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match must("umount", &purpose, &[Path::new("-f"), folder], &[]).await {
            Err(_) if Instant::now() < deadline => sleep(POLL).await,
            ended => return ended,
        }
    }
}

fn is_mounted(folder: &Path) -> Result<bool> {
    let (parent, name) = (folder.parent().unwrap_or(folder), folder.file_name().unwrap_or_default());
    let place = parent.canonicalize().map_err(Error::io("find", parent))?.join(name);
    let mounts = fs::read_to_string(MOUNTS).map_err(Error::io("read", MOUNTS))?;
    Ok(is_among(&place, &mounts))
}

/// Looks for a path in the list of mounts, where the kernel writes some characters as octal numbers (proc(5)).
fn is_among(place: &Path, mounts: &str) -> bool {
    let escapes = [("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012")];
    let place = place.to_string_lossy().into_owned();
    let place = escapes.iter().fold(place, |place, (mark, number)| place.replace(mark, number));
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&place))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::Connection(format!("{}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_whole_path() {
        let mounts = "proc /proc proc rw 0 0\n192.0.2.1:/srv /var/lib/volumes/volume-1 nfs4 rw,softerr 0 0\n\
                      192.0.2.1:/srv /my\\040\\134/volume-2 nfs4 rw,softerr 0 0\n";
        assert!(is_among(Path::new("/var/lib/volumes/volume-1"), mounts));
        assert!(is_among(Path::new("/my \\/volume-2"), mounts));
        assert!(!is_among(Path::new("/var/lib/volumes/volume-10"), mounts));
        assert!(!is_among(Path::new("/var/lib/volumes"), mounts));
        assert!(is_mounted(Path::new("/proc")).unwrap());
    }
}
