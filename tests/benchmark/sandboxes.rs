//! Sandboxes of a guest with one vCPU, each with a container that sleeps.

use std::path::{Path, PathBuf};

use cloud_tests::sandboxes::{OVERHEAD_MIB, busybox_rootfs, container, host_options};
use sandbox::{ContainerSpec, GuestNetwork, Host, HostOptions, RateLimit, Sandbox, SandboxSpec};
use tempfile::TempDir;

/// Memory of a guest.
pub const GUEST_MIB: u64 = 256;
/// Memory of its container.
pub const CONTAINER_MIB: u64 = GUEST_MIB - OVERHEAD_MIB;
const DISK_GIB: u64 = 1;
/// The container of each sandbox.
pub const CONTAINER: &str = "c";

pub struct Sandboxes {
    folder: TempDir,
    rootfs: PathBuf,
    host: Host,
}

impl Sandboxes {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// Sandboxes of a host with changed options.
    pub fn with(change: impl FnOnce(&mut HostOptions)) -> Self {
        let folder = tempfile::tempdir_in("/var/lib/zun-kata").unwrap();
        let mut options = host_options(folder.path(), "zun-kata-benchmark");
        change(&mut options);
        let rootfs = busybox_rootfs(folder.path());
        Self { rootfs, host: Host::new(options).unwrap(), folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A sandbox with its writable disk.
    pub async fn create(&self, id: &str) -> Sandbox {
        let sandbox = self.host.sandbox(id);
        sandbox.create().unwrap();
        sandbox.make_disk(CONTAINER, DISK_GIB).await.unwrap();
        sandbox
    }

    /// The image of each container.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Brings the guest up.
    pub async fn bring_up(&self, sandbox: &Sandbox, group: Option<&str>) {
        let spec = SandboxSpec {
            cpus: 1.0,
            memory_mib: CONTAINER_MIB,
            hostname: "guest".into(),
            containers: 1,
            network: GuestNetwork::default(),
            volumes: Vec::new(),
            ends_with: None,
            template_group: group.map(str::to_owned),
            nic_limit: RateLimit::default(),
            pinning: None,
        };
        sandbox.start(&spec).await.unwrap();
    }

    /// Brings the guest up, and a container in it.
    pub async fn start(&self, sandbox: &Sandbox, group: Option<&str>) {
        self.bring_up(sandbox, group).await;
        let container = ContainerSpec {
            memory_mib: CONTAINER_MIB,
            ..container(CONTAINER, &["/bin/sleep", "100000"], &self.rootfs)
        };
        sandbox.run(&container).await.unwrap();
    }
}
