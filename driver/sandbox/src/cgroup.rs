//! The control group of a sandbox (cgroup v2): it bounds the shim as a whole, guest included.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::pinning::CpuPinning;

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];
/// Weight of a sandbox with one CPU; the kernel's own default.
const WEIGHT_OF_A_CPU: f32 = 100.0;
const WEIGHT_MAX: f32 = 10_000.0;
/// Microseconds in which a quota is spent.
const PERIOD: f32 = 100_000.0;
/// What the shim's own threads may take above the vCPUs, in CPUs: they move a guest's disk and network data.
const OWN_CPUS: f32 = 1.0;
/// Memory of the shim beside its guest's, with what the kernel keeps for it, in MiB.
const OWN_MEMORY_MIB: u64 = 64;
/// Threads: vCPUs, devices, tokio's, and those of the kernel for io_uring.
const TASKS: u64 = 256;
const MEBIBYTE: u64 = 1 << 20;
/// How long a group may take to become empty once no thread of its processes runs: longer than storage that does not answer is
/// waited for, since the kernel closes a process's files last.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(150);
/// Between two tries: at first, and at most.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Where sandboxes' groups are made.
#[derive(Debug, Clone)]
pub struct Cgroups {
    parent: PathBuf,
}

/// What a sandbox may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// CPUs of the guest.
    pub cpus: f32,
    /// Memory of the guest in MiB.
    pub memory_mib: u64,
    /// The host's CPUs that it has to itself.
    pub pinning: Option<CpuPinning>,
}

impl Cgroups {
    /// Groups below `parent`, which is relative to the root of all groups. None where this host has no cgroup v2.
    pub fn open(parent: &Path) -> Result<Option<Self>> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.controllers").exists() {
            return Ok(None);
        }
        let parent = root.join(parent);
        fs::create_dir_all(&parent).map_err(Error::io("make", &parent))?;
        let mut above = root.to_owned();
        enable(&above)?;
        for part in parent.strip_prefix(root).unwrap_or(&parent) {
            above.push(part);
            enable(&above)?;
        }
        Ok(Some(Self { parent }))
    }

    /// Makes the group of sandbox `id`, or changes its limits.
    pub fn limit(&self, id: &str, limits: &Limits) -> Result<PathBuf> {
        let group = self.group(id);
        fs::create_dir_all(&group).map_err(Error::io("make", &group))?;
        // What was promised to one container must not be left to chance.
        for (file, value) in limits.pinning.iter().flat_map(CpuPinning::settings) {
            let path = group.join(file);
            fs::write(&path, value).map_err(Error::io("write", path))?;
        }
        for (file, value) in limits.settings() {
            let path = group.join(file);
            match fs::write(&path, value) {
                // The kernel has no such controller, or another owner keeps it to itself.
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::PermissionDenied =>
                {
                    tracing::debug!("{} is not there: that is not limited", path.display());
                }
                written => written.map_err(Error::io("write", path))?,
            }
        }
        Ok(group)
    }

    /// Memory in MiB that the guest of sandbox `id` may have; 0 if that is not known.
    pub fn memory_mib(&self, id: &str) -> u64 {
        let bytes = fs::read_to_string(self.group(id).join("memory.max")).unwrap_or_default();
        bytes.trim().parse::<u64>().map_or(0, |bytes| (bytes / MEBIBYTE).saturating_sub(OWN_MEMORY_MIB))
    }

    /// Removes the group of a sandbox whose shim has ended.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let group = self.group(id);
        let deadline = tokio::time::Instant::now() + EMPTY_TIMEOUT;
        let mut pause = PAUSE;
        loop {
            match fs::remove_dir(&group) {
                Err(e)
                    if e.kind() == io::ErrorKind::ResourceBusy && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", group)(e)),
                _ => return Ok(()),
            }
        }
    }

    fn group(&self, id: &str) -> PathBuf {
        self.parent.join(id)
    }
}

impl Limits {
    fn settings(&self) -> [(&'static str, String); 5] {
        let memory = (self.memory_mib + OWN_MEMORY_MIB) * MEBIBYTE;
        let quota = ((self.cpus + OWN_CPUS) * PERIOD) as u64;
        let weight = (self.cpus * WEIGHT_OF_A_CPU).clamp(1.0, WEIGHT_MAX) as u64;
        [
            ("cpu.weight", weight.to_string()),
            ("cpu.max", format!("{quota} {PERIOD}")),
            ("memory.max", memory.to_string()),
            ("pids.max", TASKS.to_string()),
            ("io.weight", weight.to_string()),
        ]
    }
}

/// Lets groups below `group` have the controllers that it has.
fn enable(group: &Path) -> Result<()> {
    let available = fs::read_to_string(group.join("cgroup.controllers")).map_err(Error::io("read", group))?;
    for controller in CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|one| one == **name))
    {
        let path = group.join("cgroup.subtree_control");
        if let Err(e) = fs::write(&path, format!("+{controller}")) {
            tracing::warn!("{controller} of sandboxes is not limited, {} refuses it: {e}", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_bound_is_read_as_it_was_written() {
        let parent = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { parent: parent.path().to_owned() };
        assert_eq!(cgroups.memory_mib("a"), 0, "there is no such group");
        let limits = Limits { cpus: 1.0, memory_mib: 192, pinning: None };
        fs::create_dir(parent.path().join("a")).unwrap();
        for (content, seen) in [(limits.settings()[2].1.as_str(), 192), ("max\n", 0)] {
            fs::write(parent.path().join("a/memory.max"), content).unwrap();
            assert_eq!(cgroups.memory_mib("a"), seen);
        }
    }

    #[test]
    fn limits_are_those_of_the_guest_and_what_serves_it() {
        let settings = Limits { cpus: 0.5, memory_mib: 192, pinning: None }.settings();
        assert_eq!(
            settings[..3],
            [
                ("cpu.weight", "50".to_owned()),
                ("cpu.max", "150000 100000".to_owned()),
                ("memory.max", (256u64 << 20).to_string()),
            ]
        );
        assert_eq!(Limits { cpus: 0.001, memory_mib: 1, pinning: None }.settings()[0].1, "1");
    }
}
