//! Files of NFS exports.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::blank::flush_device;
use crate::connection::NfsFile;
use crate::error::{Error, Result};
use crate::program::must;

/// Nothing in an export is a program or a device of this host's. A server that does not answer for two minutes (20, 40 and 60 s)
/// is an error, as an iSCSI target is: a process that waits for its disk cannot be ended. What Cinder says comes after it.
const OPTIONS: &str = "nosuid,nodev,noexec,softerr,timeo=200,retrans=2";

/// Mounts the export, if it is not mounted, and gives the path of the file.
pub async fn connect(file: &NfsFile, mounts: &Path) -> Result<PathBuf> {
    let folder = file.folder(mounts);
    fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
    if !is_mounted(&folder)? {
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
    let metadata = fs::symlink_metadata(&path).map_err(Error::io("find", &path))?;
    if metadata.is_file() { Ok(path) } else { Err(Error::NoFile(path)) }
}

/// Writes what the kernel still holds of the file.
pub async fn flush(file: &NfsFile, mounts: &Path) -> Result<()> {
    let folder = file.folder(mounts);
    if !folder.exists() || !is_mounted(&folder)? {
        return Ok(());
    }
    flush_device(folder.join(&file.name)).await
}

/// Unmounts the export, even if its server does not answer: then what was not written to it is lost.
pub async fn disconnect(file: &NfsFile, mounts: &Path) -> Result<()> {
    let folder = file.folder(mounts);
    if !folder.exists() {
        return Ok(());
    }
    if is_mounted(&folder)? {
        must("umount", &format!("unmount {}", file.export), &[Path::new("-f"), &folder], &[]).await?;
    }
    fs::remove_dir(&folder).map_err(Error::io("remove", &folder))
}

/// Whether something is mounted on a folder: it is another device than its parent's.
fn is_mounted(folder: &Path) -> Result<bool> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let parent = folder.parent().unwrap_or(folder);
    let differ = || Ok(device(folder)? != device(parent)?);
    differ().map_err(Error::io("look at", folder))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::Connection(format!("{}", path.display())))
}
