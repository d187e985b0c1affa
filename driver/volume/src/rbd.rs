//! RADOS block devices, by Ceph's `rbd` and what the kernel shows in sysfs. Who may read the image is in the host's
//! keyring, `/etc/ceph/ceph.client.USER.keyring`, unless Cinder hands one over.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::connection::RbdImage;
use crate::error::{Error, Result};
use crate::program::{flush_device, must};
use crate::sysfs::entries;

const PROGRAM: &str = "rbd";
/// Ceph's own configuration. Without it, Cinder's answer has all that is needed to reach the cluster.
const CONFIGURATION: &str = "/etc/ceph/ceph.conf";
const DEVICES: &str = "/sys/bus/rbd/devices";
/// No udev is needed, and a cluster that does not answer holds nobody for longer than an iSCSI target may (in seconds;
/// open-iscsi's `replacement_timeout`): a process that waits for its disk cannot be ended.
/// Each image has a client of its own: one that was unmapped by force keeps its lock, and who maps it next has the cluster shut
/// that lock's client out.
const MAP_OPTIONS: &str = "noudev,noshare,osd_request_timeout=120";
const UNMAP_OPTIONS: &str = "noudev,force";
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Maps the image, if it is not mapped, and gives its device.
pub async fn connect(image: &RbdImage) -> Result<PathBuf> {
    if let Some(device) = device(image)? {
        return Ok(device);
    }
    let keyring = image.keyring.as_deref().map(keyring_file).transpose()?;
    let monitors = image.monitors();
    let mut arguments = vec!["map", &image.name, "-o", MAP_OPTIONS, "--mon_host", &monitors];
    if let Some(user) = &image.auth_username {
        arguments.extend(["--id", user]);
    }
    if !Path::new(CONFIGURATION).exists() {
        arguments.push("--no-config-file");
    }
    let path = keyring.as_ref().map(|file| file.path().to_string_lossy());
    if let Some(path) = &path {
        arguments.extend(["--keyring", path]);
    }
    must(PROGRAM, &format!("map {}", image.name), &arguments, &[]).await?;
    device(image)?.ok_or_else(|| Error::NotMapped(image.name.clone()))
}

/// A file that only root may read, as long as it is held.
fn keyring_file(keyring: &str) -> Result<tempfile::NamedTempFile> {
    let write = || {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(keyring.as_bytes())?;
        Ok(file)
    };
    write().map_err(Error::io("write a keyring in", std::env::temp_dir()))
}

/// Writes what the kernel still holds of the image.
pub async fn flush(image: &RbdImage) -> Result<()> {
    match device(image)? {
        Some(device) => flush_device(device).await,
        None => Ok(()),
    }
}

/// Unmaps the image. Where the cluster does not answer, the kernel ends that only once `rbd` is killed.
pub async fn disconnect(image: &RbdImage) -> Result<()> {
    let Some(device) = device(image)? else { return Ok(()) };
    let arguments = ["unmap", "-o", UNMAP_OPTIONS, &device.to_string_lossy()];
    let unmapped = must(PROGRAM, &format!("unmap {}", image.name), &arguments, &[]).await;
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    while unmapped.is_err() && Instant::now() < deadline {
        if self::device(image)?.is_none() {
            return Ok(());
        }
        sleep(POLL).await;
    }
    unmapped
}

/// The device of an image that is mapped. Snapshots of it are others.
fn device(image: &RbdImage) -> Result<Option<PathBuf>> {
    find(Path::new(DEVICES), image).map_err(Error::io("read", DEVICES))
}

fn find(devices: &Path, image: &RbdImage) -> io::Result<Option<PathBuf>> {
    for folder in entries(devices)? {
        let is = |name: &str, wanted: &str| {
            fs::read_to_string(folder.join(name)).is_ok_and(|text| text.trim_end() == wanted)
        };
        let (pool, name) = image.name.split_once('/').unwrap_or(("", &image.name));
        if is("pool", pool) && is("name", name) && is("current_snap", "-") {
            let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Some(PathBuf::from(format!("/dev/rbd{id}"))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_device_is_found_by_its_pool_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let add = |id: &str, pool: &str, name: &str, snapshot: &str| {
            let device = folder.path().join(id);
            fs::create_dir(&device).unwrap();
            for (file, text) in [("pool", pool), ("name", name), ("current_snap", snapshot)] {
                fs::write(device.join(file), format!("{text}\n")).unwrap();
            }
        };
        let image = |name: &str| RbdImage {
            name: name.into(),
            hosts: vec!["192.0.2.1".into()],
            ports: vec!["6789".into()],
            auth_username: None,
            keyring: None,
        };
        let found = |name: &str| find(folder.path(), &image(name)).unwrap();
        assert_eq!(found("volumes/volume-1"), None);
        add("0", "other", "volume-1", "-");
        add("1", "volumes", "volume-10", "-");
        add("2", "volumes", "volume-1", "before");
        assert_eq!(found("volumes/volume-1"), None);
        add("13", "volumes", "volume-1", "-");
        assert_eq!(found("volumes/volume-1"), Some("/dev/rbd13".into()));
        let nowhere = find(Path::new("/nonexistent"), &image("volumes/volume-1")).unwrap();
        assert_eq!(nowhere, None);
    }
}
