use std::path::PathBuf;

use shim_control::LogLimits;

use crate::seccomp::SeccompProfile;
use crate::size::CpuLimit;

/// How sandboxes are made on this host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Below which each sandbox has its folder.
    pub folder: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest image.
    pub image: PathBuf,
    /// Memory that a guest gets above its containers', in MiB.
    pub memory_overhead_mib: u64,
    /// Virtual CPUs to which a sandbox may grow while it runs, where it does not begin with more.
    pub vcpus_max: u8,
    /// Memory in MiB to which a guest may grow while it runs, where it does not begin with more.
    pub memory_max_mib: u64,
    /// Where templates are kept, on the same file system as `folder`.
    pub templates: PathBuf,
    /// Bytes that all templates together may take.
    pub template_bytes: u64,
    /// Where it is kept which user of the host is which sandbox's.
    pub users: PathBuf,
    /// The first of the users that are sandboxes'.
    pub first_user: u32,
    /// The control group below which each sandbox has its own, relative to the root of all.
    pub cgroup: PathBuf,
    /// Bytes of one log file.
    pub log_file_bytes: u64,
    /// Log files kept.
    pub log_files: u32,
    /// Which system calls unprivileged containers may make.
    pub seccomp: SeccompProfile,
    /// Processes and threads that a container may have; 0 is no bound.
    pub pids_max: u64,
    /// What a container's number of CPUs means.
    pub cpu_limit: CpuLimit,
}

impl HostOptions {
    pub(crate) fn log_limits(&self) -> LogLimits {
        LogLimits { file_bytes: self.log_file_bytes, files: self.log_files }
    }
}
