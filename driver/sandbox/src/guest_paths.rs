//! Where a guest has what a container is made of.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use shim_control::{Storage, StorageDriver};

/// Where the guest keeps what containers have, Kata's own place.
const CONTAINERS: &str = "/run/kata-containers/containers";

/// Where the guest has a container's disks.
pub struct ContainerDisks {
    /// The image.
    pub image: PathBuf,
    /// What the container writes.
    pub writable: PathBuf,
    /// Its volumes, in the order of its mounts.
    pub volumes: Vec<PathBuf>,
}

/// Where a container's file systems are in the guest.
pub struct GuestPaths {
    lower: PathBuf,
    writable: PathBuf,
    volumes: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    /// The root that its processes see.
    pub rootfs: PathBuf,
}

impl GuestPaths {
    /// Those of the container of this identifier.
    pub fn of(id: &str) -> Self {
        let base = Path::new(CONTAINERS).join(id);
        let writable = base.join("writable");
        Self {
            lower: base.join("image"),
            upper: writable.join("upper"),
            work: writable.join("work"),
            writable,
            volumes: base.join("volumes"),
            rootfs: base.join("rootfs"),
        }
    }

    /// That of its volume of this number.
    pub fn volume(&self, number: usize) -> PathBuf {
        self.volumes.join(number.to_string())
    }

    /// What is mounted there before the container is made.
    pub fn storages(&self, disks: &ContainerDisks) -> Vec<Storage> {
        let block = |disk: &Path, fstype: &str, options: &[&str], target: &Path| Storage {
            driver: StorageDriver::Block(disk.into()),
            fstype: fstype.into(),
            options: options.iter().map(|option| (*option).into()).collect(),
            mount_point: target.to_owned(),
        };
        let directories = BTreeSet::from([self.upper.clone(), self.work.clone()]);
        let volumes = disks.volumes.iter().enumerate();
        // What a volume's user made of it is no device and no program of the guest's.
        let volumes = volumes.map(|(number, disk)| {
            block(disk, "ext4", &["noatime", "nodev", "discard"], &self.volume(number))
        });
        let own = vec![
            block(&disks.image, "squashfs", &["ro", "nodev"], &self.lower),
            // What is deleted gives its space back to the host.
            block(&disks.writable, "ext4", &["noatime", "nodev", "discard"], &self.writable),
            Storage {
                driver: StorageDriver::Overlay(directories.into_iter().collect()),
                fstype: "overlay".into(),
                options: vec![
                    // A device that an image or a copied file brings opens nothing.
                    "nodev".into(),
                    format!("lowerdir={}", self.lower.display()),
                    format!("upperdir={}", self.upper.display()),
                    format!("workdir={}", self.work.display()),
                ],
                mount_point: self.rootfs.clone(),
            },
        ];
        own.into_iter().chain(volumes).collect()
    }
}

/// Where `path` is, as seen from `root`: nothing climbs above it.
pub fn beneath(root: &Path, path: &Path) -> PathBuf {
    let mut inside = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::ParentDir => drop(inside.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    root.iter().chain(inside).collect()
}
