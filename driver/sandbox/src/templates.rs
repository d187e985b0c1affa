//! Saved guests from which sandboxes go on, instead of booting.
//!
//! A template serves only the group of sandboxes for which it was made, on this host, since its last boot, and as long
//! as kernel, guest image and shim are the files that they were.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};
use shim_control::{DiskSlot, Origin, SandboxPlan};

use crate::error::{Error, Result};
use crate::files;

/// Changes at each boot of this host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Its time of change says when the template was last used.
const STATE: &str = "state";
const BLOCK: u64 = 512;

/// All templates of this host.
#[derive(Debug, Clone)]
pub struct Templates {
    folder: PathBuf,
    bytes_max: u64,
    /// Names of templates that are being made.
    making: Arc<Mutex<HashSet<String>>>,
}

/// What a template is good for. Its digest is the template's name.
#[derive(Serialize)]
struct Key<'a> {
    group: &'a str,
    vcpus: u8,
    vcpus_max: u8,
    memory_mib: u64,
    memory_max_mib: u64,
    disk_slots: &'a [DiskSlot],
    nic_slots: u8,
    files: Vec<FileIdentity>,
}

/// A file's content, as far as that can be told without reading it.
#[derive(Serialize)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// How a sandbox is started.
#[derive(Debug)]
pub struct Start {
    /// What its plan says.
    pub origin: Origin,
    making: Option<Making>,
}

/// The right to make a template that nobody else is making.
#[derive(Debug)]
struct Making {
    templates: Templates,
    name: String,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.templates.making().remove(&self.name);
    }
}

impl Templates {
    /// The templates below `folder`, which together may take `bytes_max` on its disk. Those of an earlier boot go.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Self> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(Error::io("read", BOOT_ID))?;
        let current = folder.join(boot_id.trim());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&current)
            .map_err(Error::io("make", &current))?;
        for entry in entries(folder)? {
            if entry != current {
                files::remove_folder(&entry)?;
            }
        }
        Ok(Self { folder: current, bytes_max, making: Arc::default() })
    }

    /// How the sandbox of `plan` is to start: from its group's template, making one, or without where one is in the making.
    pub fn start(&self, group: &str, plan: &SandboxPlan, shim: &Path) -> Result<Start> {
        let name = name(group, plan, shim)?;
        let template = self.folder.join(&name);
        if touch(&template.join(STATE)).is_ok() {
            return Ok(Start { origin: Origin::Template(template), making: None });
        }
        if !self.making().insert(name.clone()) {
            return Ok(Start { origin: Origin::Boot, making: None });
        }
        let making = Making { templates: self.clone(), name };
        Ok(Start { origin: Origin::BootAndSave, making: Some(making) })
    }

    /// Takes over the template that a sandbox made, if it did.
    pub fn finish(&self, start: Start, made: &Path) -> Result<()> {
        let Some(making) = start.making else { return Ok(()) };
        if !made.exists() {
            return Ok(());
        }
        let template = self.folder.join(&making.name);
        fs::rename(made, &template).map_err(Error::io("keep the template", &template))?;
        tracing::info!(template = making.name, "a template was made");
        self.evict(&template)
    }

    /// Forgets a template that cannot be used.
    pub fn discard(&self, template: &Path) -> Result<()> {
        files::remove_folder(template)
    }

    /// Removes those used longest ago until all fit their bound; `kept` stays. What sandboxes still map is freed with them.
    fn evict(&self, kept: &Path) -> Result<()> {
        let mut templates = entries(&self.folder)?
            .into_iter()
            .map(|path| Ok((used_at(&path)?, size(&path)?, path)))
            .collect::<Result<Vec<_>>>()?;
        templates.sort();
        let mut total: u64 = templates.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in templates.into_iter().filter(|(_, _, path)| path != kept) {
            if total <= self.bytes_max {
                break;
            }
            tracing::info!(template = %path.display(), "a template makes room for another");
            self.discard(&path)?;
            total -= size;
        }
        Ok(())
    }

    fn making(&self) -> MutexGuard<'_, HashSet<String>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(group: &str, plan: &SandboxPlan, shim: &Path) -> Result<String> {
    let files = [plan.kernel.as_path(), plan.image.as_path(), shim];
    let key = Key {
        group,
        vcpus: plan.vcpus,
        vcpus_max: plan.vcpus_max,
        memory_mib: plan.memory_mib,
        memory_max_mib: plan.memory_max_mib,
        disk_slots: &plan.disk_slots,
        nic_slots: plan.nic_slots,
        files: files.into_iter().map(identity).collect::<Result<_>>()?,
    };
    let text = serde_json::to_vec(&key).map_err(|e| Error::Spec(e.to_string()))?;
    Ok(Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn identity(path: &Path) -> Result<FileIdentity> {
    let found = metadata(path)?;
    Ok(FileIdentity {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(Error::io("examine", path))
}

fn touch(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.set_modified(SystemTime::now())
}

fn used_at(template: &Path) -> Result<SystemTime> {
    let path = template.join(STATE);
    fs::metadata(&path).and_then(|found| found.modified()).map_err(Error::io("examine", path))
}

fn size(template: &Path) -> Result<u64> {
    let files = entries(template)?;
    files.iter().map(|path| Ok(metadata(path)?.blocks() * BLOCK)).sum()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("read", folder))).collect()
}

#[cfg(test)]
mod tests {
    use shim_control::LogLimits;

    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        plan: SandboxPlan,
        shim: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = |name: &str| {
                let path = folder.path().join(name);
                fs::write(&path, name).unwrap();
                path
            };
            let shim = file("shim");
            let plan = SandboxPlan {
                id: "s".into(),
                vcpus: 1,
                memory_mib: 128,
                vcpus_max: 1,
                memory_max_mib: 128,
                kernel: file("kernel"),
                image: file("image"),
                hostname: String::new(),
                user: 1,
                cgroup: None,
                origin: Origin::Boot,
                disk_slots: vec![DiskSlot::ReadOnly],
                nic_slots: 1,
                ends_with: None,
                log: LogLimits { file_bytes: 1, files: 1 },
                has_filters: true,
            };
            Self { plan, shim, folder }
        }

        fn open(&self, bytes_max: u64) -> Templates {
            Templates::open(&self.folder.path().join("templates"), bytes_max).unwrap()
        }

        fn start(&self, templates: &Templates, group: &str) -> Start {
            templates.start(group, &self.plan, &self.shim).unwrap()
        }

        /// What a shim leaves, of `size` bytes.
        fn made(&self, size: usize) -> PathBuf {
            let made = self.folder.path().join("made");
            fs::create_dir(&made).unwrap();
            fs::write(made.join("memory"), vec![1; size]).unwrap();
            fs::write(made.join(STATE), "s").unwrap();
            made
        }

        fn make(&self, templates: &Templates, group: &str, size: usize) {
            let start = self.start(templates, group);
            assert_eq!(start.origin, Origin::BootAndSave);
            templates.finish(start, &self.made(size)).unwrap();
        }
    }

    #[test]
    fn one_sandbox_makes_the_template_and_others_use_it() {
        let fixture = Fixture::new();
        let templates = fixture.open(1 << 30);
        let first = fixture.start(&templates, "a");
        assert_eq!(fixture.start(&templates, "a").origin, Origin::Boot, "it is in the making");
        drop(first);
        fixture.make(&templates, "a", 1);
        let Origin::Template(path) = fixture.start(&templates, "a").origin else { panic!("none is used") };
        assert!(path.join("memory").exists());
        assert_eq!(fixture.start(&templates, "b").origin, Origin::BootAndSave, "another group has its own");
        templates.discard(&path).unwrap();
        assert_eq!(fixture.start(&templates, "a").origin, Origin::BootAndSave);
    }

    #[test]
    fn a_template_of_another_shape_or_of_changed_files_is_not_used() {
        let mut fixture = Fixture::new();
        let templates = fixture.open(1 << 30);
        fixture.make(&templates, "a", 1);
        fixture.plan.memory_mib += 1;
        assert_eq!(fixture.start(&templates, "a").origin, Origin::BootAndSave);
        fixture.plan.memory_mib -= 1;
        assert!(matches!(fixture.start(&templates, "a").origin, Origin::Template(_)));
        fs::write(&fixture.plan.image, "another").unwrap();
        assert_eq!(fixture.start(&templates, "a").origin, Origin::BootAndSave);
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let fixture = Fixture::new();
        let templates = fixture.open(3 << 20);
        for group in ["a", "b"] {
            fixture.make(&templates, group, 1 << 20);
        }
        assert!(matches!(fixture.start(&templates, "a").origin, Origin::Template(_)));
        fixture.make(&templates, "c", 1 << 20);
        let left = ["a", "b", "c"]
            .map(|group| matches!(fixture.start(&templates, group).origin, Origin::Template(_)));
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn templates_of_an_earlier_boot_go() {
        let fixture = Fixture::new();
        let old = fixture.folder.path().join("templates/earlier/x");
        fs::create_dir_all(&old).unwrap();
        fixture.open(1);
        assert!(!old.exists());
    }
}
