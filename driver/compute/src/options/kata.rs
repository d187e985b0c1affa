use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use image::{Limits, Retention, TreeLimits, WorkerOptions};
use sandbox::{RateLimit, SeccompProfile, USERS};
use serde::Deserialize;

use super::error::ConfigError;
use crate::host_facts;

const MEBIBYTE: u64 = 1 << 20;
const GIBIBYTE: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[kata]`
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kata {
    /// Below which sandboxes and images are kept.
    pub state_path: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
    /// The program that reads images.
    pub worker: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest image.
    pub image: PathBuf,
    /// Which sandboxes go on from a common template.
    pub template_scope: TemplateScope,
    /// MiB that templates may take together.
    pub template_cache_size: u64,
    /// Bytes a second that a container may move through each of its disks; 0 is no bound.
    pub disk_bytes: u64,
    /// Bytes that it may move at once after a pause.
    pub disk_burst_bytes: u64,
    /// Requests a second to each of its disks.
    pub disk_operations: u64,
    /// Requests at once after a pause.
    pub disk_burst_operations: u64,
    /// Bytes a second through each of its interfaces, in each direction.
    pub nic_bytes: u64,
    /// Bytes at once after a pause.
    pub nic_burst_bytes: u64,
    /// Packets a second through each of its interfaces, in each direction.
    pub nic_packets: u64,
    /// Packets at once after a pause.
    pub nic_burst_packets: u64,
    /// Where metrics are served over HTTP, if they are.
    pub metrics_listen: Option<SocketAddr>,
    /// The first of 65,536 users of this host as which shims run; the last one's are the workers that read images.
    pub first_user: u32,
    /// The control group below which each sandbox has its own.
    pub cgroup: PathBuf,
    /// Memory in MiB that a guest gets above its containers'.
    pub memory_overhead: u64,
    /// Whether a container's number of CPUs bounds it; otherwise it is its weight beside others.
    pub cpu_quota: bool,
    /// Virtual CPUs to which a sandbox may grow while it runs; never more than the host has.
    pub max_vcpus: u8,
    /// Memory in MiB to which a guest may grow while it runs; 0 is all that the host has.
    pub max_memory: u64,
    /// Which system calls unprivileged containers may make: a file with a profile in Docker's format, or `unconfined`; by default
    /// Docker's own rules.
    pub seccomp_profile: String,
    /// Processes and threads that a container may have; 0 is no bound.
    pub pids_limit: u64,
    /// MiB of one log file.
    pub log_file_size: u64,
    /// Log files kept.
    pub log_files: u32,
    /// Registries that are reached over plain HTTP, separated by commas.
    pub insecure_registries: String,
    /// PEM file of further certificate authorities for registries.
    pub registry_ca_file: Option<PathBuf>,
    /// Mirrors, each as `REGISTRY=HOST[:PORT]`, separated by commas.
    pub registry_mirrors: String,
    /// Hosts that are told users' credentials to give tokens for a registry, each as `REGISTRY=HOST[:PORT]`, separated by
    /// commas. A registry's own host always is, and those of Docker Hub and gitlab.com.
    pub registry_auth_hosts: String,
    /// GiB that an image's layers may have together, uncompressed.
    pub image_size_max: u64,
    /// Files, directories and links that an image may have.
    pub image_entries_max: usize,
    /// MiB that their names, extended attributes and links' targets may have together.
    pub image_metadata_max: usize,
    /// MiB of memory that it may take to read an image.
    pub image_memory_max: u64,
    /// Seconds of processor time that it may take.
    pub image_time_max: u64,
    /// Days for which an image is kept that no container has; 0 is for ever.
    pub image_unused_days: u64,
    /// GiB that the images of this host may take together; 0 is no bound.
    pub image_store_size: u64,
    /// Seconds that it may take to see whether a volume that a container is given is empty.
    pub volume_check_time_max: u64,
    /// MiB of an archive that is copied from or to a container: it travels in one message of the broker's.
    pub archive_size_max: u64,
    /// Seconds within which one who may attach to a container, or start an exec, must do so.
    pub console_token_ttl: u64,
    /// Seconds to wait until Neutron reports a port active; 0 does not wait.
    pub vif_plugging_timeout: u64,
    /// Whether a port that does not become active in time is an error.
    pub vif_plugging_is_fatal: bool,
}

/// Which sandboxes go on from a common template. They have its kernel's address layout and its unwritten pages in
/// common, which the timing of a neighbour's accesses could tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateScope {
    /// Those of one project.
    Project,
    /// All of this host.
    Host,
    /// None: each guest boots.
    None,
}

impl TemplateScope {
    /// The group of sandboxes with which those of `owner` share templates.
    pub fn group(self, owner: &str) -> Option<String> {
        match self {
            Self::Project => Some(format!("owner {owner}")),
            Self::Host => Some("host".into()),
            Self::None => None,
        }
    }
}

impl Kata {
    /// Says which bound lets nothing through: there is none of an image that means that there is no bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("[kata] image_size_max", self.image_size_max),
            ("[kata] image_entries_max", self.image_entries_max as u64),
            ("[kata] image_metadata_max", self.image_metadata_max as u64),
            ("[kata] image_memory_max", self.image_memory_max),
            ("[kata] image_time_max", self.image_time_max),
        ];
        match bounds.iter().find(|(_, bound)| *bound == 0) {
            Some((name, _)) => Err(ConfigError::of(*name, "it must be at least 1")),
            None => Ok(()),
        }
    }

    pub fn vcpus_max(&self) -> u8 {
        self.max_vcpus.min(u8::try_from(host_facts::cpus()).unwrap_or(u8::MAX))
    }

    pub fn memory_max_mib(&self) -> u64 {
        match self.max_memory {
            0 => host_facts::memory().total,
            mebibytes => mebibytes,
        }
    }

    /// Which system calls containers may make.
    pub fn seccomp(&self) -> SeccompProfile {
        match self.seccomp_profile.as_str() {
            "" => SeccompProfile::Default,
            "unconfined" => SeccompProfile::Unconfined,
            path => SeccompProfile::File(path.into()),
        }
    }

    /// How images are read.
    pub fn workers(&self) -> WorkerOptions {
        let tree = TreeLimits {
            entries: self.image_entries_max,
            metadata: self.image_metadata_max.saturating_mul(MEBIBYTE as usize),
        };
        WorkerOptions {
            program: self.worker.clone(),
            user: self.first_user.saturating_add(USERS),
            memory: self.image_memory_max.saturating_mul(MEBIBYTE),
            seconds: self.image_time_max,
            limits: Limits { bytes: self.image_size_max.saturating_mul(GIBIBYTE), tree },
        }
    }

    /// How long images are kept.
    pub fn retention(&self) -> Retention {
        let given = |number: u64| Some(number).filter(|number| *number > 0);
        Retention {
            unused: given(self.image_unused_days)
                .map(|days| DAY.saturating_mul(days.try_into().unwrap_or(u32::MAX))),
            bytes: given(self.image_store_size).map(|gibibytes| gibibytes.saturating_mul(GIBIBYTE)),
        }
    }

    /// How long a volume that a container is given may be read.
    pub fn volume_check_limit(&self) -> Duration {
        Duration::from_secs(self.volume_check_time_max)
    }

    /// What a container may move through each of its disks.
    pub fn disk_limit(&self) -> RateLimit {
        RateLimit {
            bytes: self.disk_bytes,
            burst_bytes: self.disk_burst_bytes,
            operations: self.disk_operations,
            burst_operations: self.disk_burst_operations,
        }
    }

    /// What a container may move through each of its interfaces, in each direction.
    pub fn nic_limit(&self) -> RateLimit {
        RateLimit {
            bytes: self.nic_bytes,
            burst_bytes: self.nic_burst_bytes,
            operations: self.nic_packets,
            burst_operations: self.nic_burst_packets,
        }
    }
}

impl Default for Kata {
    fn default() -> Self {
        Self {
            state_path: "/var/lib/zun-kata".into(),
            shim: "/usr/libexec/zun-kata/kata-shim".into(),
            worker: "/usr/libexec/zun-kata/kata-worker".into(),
            kernel: "/usr/share/zun-kata/vmlinux".into(),
            image: "/usr/share/zun-kata/guest.initrd".into(),
            template_scope: TemplateScope::Project,
            template_cache_size: 4096,
            disk_bytes: 0,
            disk_burst_bytes: 0,
            disk_operations: 0,
            disk_burst_operations: 0,
            nic_bytes: 0,
            nic_burst_bytes: 0,
            nic_packets: 0,
            nic_burst_packets: 0,
            metrics_listen: None,
            first_user: 2_000_000_000,
            cgroup: "zun-kata".into(),
            memory_overhead: 64,
            cpu_quota: false,
            max_vcpus: 4,
            max_memory: 0,
            seccomp_profile: String::new(),
            pids_limit: 16_384,
            log_file_size: 10,
            log_files: 3,
            insecure_registries: String::new(),
            registry_ca_file: None,
            registry_mirrors: String::new(),
            registry_auth_hosts: String::new(),
            image_size_max: 20,
            image_entries_max: 1_000_000,
            image_metadata_max: 128,
            image_memory_max: 2048,
            image_time_max: 1800,
            image_unused_days: 30,
            image_store_size: 0,
            volume_check_time_max: 600,
            archive_size_max: 64,
            console_token_ttl: 600,
            vif_plugging_timeout: 300,
            vif_plugging_is_fatal: true,
        }
    }
}
