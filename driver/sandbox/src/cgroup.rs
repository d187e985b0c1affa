//! The control group of a sandbox (cgroup v2): it bounds the shim as a whole, guest included.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::pinning::CpuPinning;
use crate::size::{CpuLimit, vcpus};

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS_FILE: &str = "cgroup.controllers";
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];
const REQUIRED: [&str; 3] = ["cpu", "memory", "pids"];
/// Missing on some kernels: bursts (since 5.14), swap accounting, and an I/O scheduler with weights.
const OPTIONAL: [&str; 3] = ["cpu.max.burst", "memory.swap.max", "io.weight"];
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
    /// What they mean to the guest.
    pub cpu_limit: CpuLimit,
    /// Memory of the guest in MiB.
    pub memory_mib: u64,
    /// The host's CPUs that it has to itself.
    pub pinning: Option<CpuPinning>,
}

impl Cgroups {
    /// Groups below `parent`, which is relative to the root of all groups. A host without cgroup v2 has none, and can make none.
    pub fn open(parent: &Path) -> Result<Self> {
        let root = Path::new(ROOT);
        let parent = root.join(parent);
        if !root.join(CONTROLLERS_FILE).exists() {
            tracing::warn!("this host has no cgroup v2: no sandbox is started on it");
            return Ok(Self { parent });
        }
        fs::create_dir_all(&parent).map_err(Error::io("make", &parent))?;
        let mut above = root.to_owned();
        enable(&above)?;
        for part in parent.strip_prefix(root).unwrap_or(&parent) {
            above.push(part);
            enable(&above)?;
        }
        require(&parent)?;
        Ok(Self { parent })
    }

    /// Makes a group, or changes its limits. Without cgroup v2 it is an error.
    pub fn limit(&self, group: &Path, limits: &Limits) -> Result<()> {
        if !self.parent.join(CONTROLLERS_FILE).exists() {
            return Err(Error::NoCgroups);
        }
        fs::create_dir_all(group).map_err(Error::io("make", group))?;
        // What was promised to one container must not be left to chance.
        for (file, value) in limits.pinning.iter().flat_map(CpuPinning::settings) {
            let path = group.join(file);
            fs::write(&path, value).map_err(Error::io("write", path))?;
        }
        for (file, value) in limits.settings() {
            let path = group.join(file);
            match fs::write(&path, value) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && OPTIONAL.contains(&file) => {}
                written => written.map_err(Error::io("write", path))?,
            }
        }
        Ok(())
    }

    /// Memory in MiB that the guest in a group may have; 0 if that is not known.
    pub fn memory_mib(&self, group: &Path) -> u64 {
        let bytes = fs::read_to_string(group.join("memory.max")).unwrap_or_default();
        bytes.trim().parse::<u64>().map_or(0, |bytes| (bytes / MEBIBYTE).saturating_sub(OWN_MEMORY_MIB))
    }

    /// Processes in a group, as this process numbers them: a shim, once that has begun. A process that was killed is
    /// among them until its last thread has ended.
    pub fn processes(&self, group: &Path) -> Vec<Pid> {
        let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect()
    }

    /// Whether there is a process in a group.
    pub fn is_populated(&self, group: &Path) -> bool {
        let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// Brings a process into a group, which has been limited when the process was started.
    pub fn admit(&self, group: &Path, process: Pid) -> Result<()> {
        let path = group.join("cgroup.procs");
        fs::write(&path, process.to_string()).map_err(Error::io("write", path))
    }

    /// Kills all processes in a group, without waiting for their end. Idempotent: succeeds if there is none.
    pub fn kill(&self, group: &Path) -> Result<()> {
        let path = group.join("cgroup.kill");
        match fs::write(&path, "1") {
            // Kernels before 5.14 have no such file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                for process in self.processes(group) {
                    // One that has ended meanwhile needs no signal.
                    let _ = kill(process, Signal::SIGKILL);
                }
                Ok(())
            }
            written => written.map_err(Error::io("write", path)),
        }
    }

    /// Removes the group of a sandbox whose shim has ended.
    pub async fn remove(&self, group: &Path) -> Result<()> {
        let deadline = tokio::time::Instant::now() + EMPTY_TIMEOUT;
        let mut pause = PAUSE;
        loop {
            match fs::remove_dir(group) {
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

    /// Where the group of sandbox `id` is made.
    pub fn group(&self, id: &str) -> PathBuf {
        self.parent.join(id)
    }
}

impl Limits {
    fn settings(&self) -> [(&'static str, String); 8] {
        let memory = (self.memory_mib + OWN_MEMORY_MIB) * MEBIBYTE;
        let (ceiling, burst) = match self.cpu_limit {
            CpuLimit::Weight => (f32::from(vcpus(self.cpus)), 0.0),
            CpuLimit::Quota => (self.cpus, self.cpus),
        };
        let (quota, burst) = (((ceiling + OWN_CPUS) * PERIOD) as u64, (burst * PERIOD) as u64);
        [
            ("cpu.weight", self.weight().to_string()),
            // A burst must not be larger than the quota at any time.
            ("cpu.max.burst", "0".into()),
            ("cpu.max", format!("{quota} {PERIOD}")),
            ("cpu.max.burst", burst.to_string()),
            ("memory.max", memory.to_string()),
            ("memory.swap.max", "0".into()),
            ("pids.max", TASKS.to_string()),
            ("io.weight", self.weight().to_string()),
        ]
    }

    fn weight(&self) -> u64 {
        (self.cpus * WEIGHT_OF_A_CPU).clamp(1.0, WEIGHT_MAX) as u64
    }
}

/// Lets groups below `group` have the controllers that it has.
fn enable(group: &Path) -> Result<()> {
    let available = fs::read_to_string(group.join(CONTROLLERS_FILE)).map_err(Error::io("read", group))?;
    for controller in CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|one| one == **name))
    {
        let path = group.join("cgroup.subtree_control");
        if let Err(e) = fs::write(&path, format!("+{controller}")) {
            tracing::warn!(controller, file = %path.display(), error = %e, "a controller does not limit sandboxes");
        }
    }
    Ok(())
}

/// Without these controllers a sandbox could take what is its neighbours'.
fn require(group: &Path) -> Result<()> {
    let path = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    match REQUIRED.iter().find(|name| !enabled.split_whitespace().any(|one| one == **name)) {
        Some(controller) => Err(Error::Controller { controller, group: group.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_bound_is_read_as_it_was_written() {
        let parent = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { parent: parent.path().to_owned() };
        assert_eq!(cgroups.memory_mib(&cgroups.group("a")), 0, "there is no such group");
        let limits = Limits { cpus: 1.0, cpu_limit: CpuLimit::Weight, memory_mib: 192, pinning: None };
        fs::create_dir(parent.path().join("a")).unwrap();
        for (content, seen) in [(limits.settings()[4].1.as_str(), 192), ("max\n", 0)] {
            fs::write(parent.path().join("a/memory.max"), content).unwrap();
            assert_eq!(cgroups.memory_mib(&cgroups.group("a")), seen);
        }
    }

    #[test]
    fn nobody_starts_without_his_bounds() {
        let parent = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { parent: parent.path().to_owned() };
        let limits = Limits { cpus: 1.0, cpu_limit: CpuLimit::Weight, memory_mib: 192, pinning: None };
        let group = cgroups.group("a");
        assert!(matches!(cgroups.limit(&group, &limits), Err(Error::NoCgroups)));
        fs::write(parent.path().join(CONTROLLERS_FILE), "cpu memory pids").unwrap();
        cgroups.limit(&group, &limits).unwrap();
        for (file, _) in limits.settings() {
            // A file that takes no value.
            let path = group.join(file);
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            let error = cgroups.limit(&group, &limits).unwrap_err().to_string();
            assert!(error.contains(file), "{error}");
            fs::remove_dir(&path).unwrap();
            fs::write(&path, "").unwrap();
        }
        let control = parent.path().join("cgroup.subtree_control");
        fs::write(&control, "cpuset cpu io memory pids\n").unwrap();
        require(parent.path()).unwrap();
        fs::write(&control, "cpu pids\n").unwrap();
        let error = require(parent.path()).unwrap_err().to_string();
        assert!(error.contains("controller memory"), "{error}");
    }

    #[test]
    fn limits_are_those_of_the_guest_and_what_serves_it() {
        let limits = |cpus, cpu_limit| Limits { cpus, cpu_limit, memory_mib: 192, pinning: None }.settings();
        let values = |settings: [(&str, String); 8]| settings.map(|(_, value)| value);
        let memory = (256u64 << 20).to_string();
        assert_eq!(
            values(limits(0.5, CpuLimit::Quota)),
            ["50", "0", "150000 100000", "50000", &memory, "0", "256", "50"]
        );
        assert_eq!(
            values(limits(0.5, CpuLimit::Weight)),
            ["50", "0", "200000 100000", "0", &memory, "0", "256", "50"]
        );
        assert_eq!(limits(0.001, CpuLimit::Weight)[0].1, "1");
    }

    #[test]
    fn a_group_tells_whether_anybody_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { parent: parent.path().to_owned() };
        let group = cgroups.group("a");
        assert!(!cgroups.is_populated(&group) && cgroups.processes(&group).is_empty());
        fs::create_dir(parent.path().join("a")).unwrap();
        fs::write(parent.path().join("a/cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        fs::write(parent.path().join("a/cgroup.procs"), "7\n9\n").unwrap();
        assert!(cgroups.is_populated(&group));
        assert_eq!(cgroups.processes(&group), [7, 9].map(Pid::from_raw));
    }
}
