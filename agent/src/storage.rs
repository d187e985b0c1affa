//! File systems that a container needs, mounted before it is made.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use agent_protocol::messages::Storage;
use agent_protocol::{
    CONTAINERS_DIR, OVERLAY_CREATE_DIRECTORY, STORAGE_LOCAL, STORAGE_MMIO_BLOCK, STORAGE_OVERLAY,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Result};
use crate::files;

/// How long a disk that the guest was told of may take to appear.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);

/// Mounted file systems, in the order in which they were mounted. Dropped, they are unmounted.
#[derive(Default)]
pub struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// Mounts all `storages`, or none.
    pub async fn mount(storages: &[Storage]) -> Result<Self> {
        let mut mounts = Self::default();
        for storage in storages {
            let target = PathBuf::from(&storage.mount_point);
            check_target(&target)?;
            if storage.driver == STORAGE_LOCAL {
                mounts.make_directory(&target)?;
            } else {
                mount_one(storage).await?;
                mounts.0.push(target);
            }
        }
        Ok(mounts)
    }

    /// Makes a directory in whichever file system it is in: a link in there leads to nothing outside.
    fn make_directory(&self, path: &Path) -> Result<()> {
        let inside = self.0.iter().rev().find_map(|root| Some((root, path.strip_prefix(root).ok()?)));
        match inside {
            Some((root, rest)) => files::make_directories(root, rest),
            None => make_directory(path),
        }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for target in self.0.drain(..).rev() {
            if let Err(e) =
                umount2(&target, MntFlags::empty()).or_else(|_| umount2(&target, MntFlags::MNT_DETACH))
            {
                tracing::warn!("cannot unmount {}: {e}", target.display());
            }
        }
    }
}

async fn mount_one(storage: &Storage) -> Result<()> {
    let target = Path::new(&storage.mount_point);
    match storage.driver.as_str() {
        STORAGE_MMIO_BLOCK => wait_for_device(Path::new(&storage.source)).await?,
        STORAGE_OVERLAY => create_directories(&storage.driver_options)?,
        other => return Err(Error::StorageDriver(other.to_owned())),
    }
    make_directory(target)?;
    let (flags, data) = split_options(&storage.options);
    mount(Some(storage.source.as_str()), target, Some(storage.fstype.as_str()), flags, Some(data.as_str()))
        .map_err(|source| Error::Mount {
            source_name: storage.source.clone(),
            target: target.to_owned(),
            source,
        })
}

fn check_target(target: &Path) -> Result<()> {
    let plain = target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if plain && target.starts_with(CONTAINERS_DIR) {
        return Ok(());
    }
    Err(Error::Path { path: target.to_owned(), reason: format!("a storage must be below {CONTAINERS_DIR}") })
}

async fn wait_for_device(path: &Path) -> Result<()> {
    if !path.starts_with("/dev") {
        return Err(Error::Path { path: path.to_owned(), reason: "a disk must be below /dev".into() });
    }
    // A disk's slot is there from the start; it gets a size when the host puts a disk into it.
    let appeared = async {
        while !has_size(path) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEVICE_TIMEOUT, appeared)
        .await
        .map_err(|_| Error::Path { path: path.to_owned(), reason: "the disk did not appear".into() })
}

fn has_size(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let size = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"));
    size.is_ok_and(|sectors| sectors.trim() != "0") && path.exists()
}

fn create_directories(driver_options: &[String]) -> Result<()> {
    let prefix = format!("{OVERLAY_CREATE_DIRECTORY}=");
    for directory in driver_options.iter().filter_map(|option| option.strip_prefix(&prefix)) {
        check_target(Path::new(directory))?;
        make_directory(Path::new(directory))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(format!("make {}", path.display())))
}

/// Options that are mount flags, and those that are the file system's own.
fn split_options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "rw" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = ["ro", "noatime", "lowerdir=/a", "metacopy=on"].map(String::from);
        let (flags, data) = split_options(&options);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);
        assert_eq!(data, "lowerdir=/a,metacopy=on");
    }

    #[tokio::test]
    async fn storages_elsewhere_are_refused() {
        for (driver, source, target) in [
            (STORAGE_MMIO_BLOCK, "/dev/vda", "/etc"),
            (STORAGE_LOCAL, "", "/etc/x"),
            (STORAGE_MMIO_BLOCK, "/etc/passwd", "/run/kata-containers/containers/a/lower"),
            (STORAGE_MMIO_BLOCK, "/dev/vda", "/run/kata-containers/containers/../../x"),
            ("9p", "share", "/run/kata-containers/containers/a/lower"),
        ] {
            let storage = Storage {
                driver: driver.into(),
                source: source.into(),
                mount_point: target.into(),
                ..Default::default()
            };
            assert!(Mounts::mount(&[storage]).await.is_err(), "{driver} {source} {target}");
        }
    }
}
