use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that a shim needs to bring a sandbox up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The sandbox's identifier.
    pub id: String,
    /// Virtual CPUs to begin with.
    pub vcpus: u8,
    /// Virtual CPUs that the guest may come to have.
    pub vcpus_max: u8,
    /// Guest memory in MiB to begin with.
    pub memory_mib: u64,
    /// Guest memory in MiB that it may come to have.
    pub memory_max_mib: u64,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest image.
    pub image: PathBuf,
    /// The guest's host name.
    pub hostname: String,
    /// The host's user and group, no other sandbox's, as which the shim runs.
    pub user: u32,
    /// The control group that holds the shim.
    pub cgroup: Option<PathBuf>,
    /// How the guest comes up.
    pub origin: Origin,
    /// Slots for disks in guest order, the first being `/dev/vda`, and whether a guest may only read what is in one.
    pub disk_slots: Vec<DiskSlot>,
    /// Number of slots for network interfaces.
    pub nic_slots: u8,
    /// The container whose end ends the sandbox.
    pub ends_with: Option<String>,
    /// Bounds of each container's log.
    pub log: LogLimits,
    /// Whether the guest image's agent can keep containers to a list of system calls. One that was started by an earlier version
    /// cannot.
    #[serde(default)]
    pub has_filters: bool,
}

/// Most pairs of queues that an interface has.
pub const QUEUE_PAIRS_MAX: u8 = 8;

impl SandboxPlan {
    /// Pairs of queues that each interface has.
    pub fn queue_pairs(&self) -> u8 {
        queue_pairs(self.vcpus)
    }
}

/// Pairs of queues that each interface of a guest has that begins with so many virtual CPUs: a pair each, as Nova does it.
pub fn queue_pairs(vcpus: u8) -> u8 {
    vcpus.clamp(1, QUEUE_PAIRS_MAX)
}

/// How a guest comes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It boots.
    Boot,
    /// It boots, and once its agent answers its state is saved as a template in the sandbox's folder.
    BootAndSave,
    /// It goes on from the template in this folder, or boots where that cannot be.
    Template(PathBuf),
}

/// What a guest may do with the disk in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSlot {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// What a device may move; zero is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Bytes a second.
    pub bytes: u64,
    /// Bytes at once after a pause.
    pub burst_bytes: u64,
    /// Requests, or packets, a second.
    pub operations: u64,
    /// Requests, or packets, at once after a pause.
    pub burst_operations: u64,
}

/// A network interface and how the guest sets it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The tap on this host.
    pub tap: String,
    /// The guest's hardware address.
    pub mac: String,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// The interface's name in the guest.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<NicAddress>,
    /// Routes through it.
    pub routes: Vec<NicRoute>,
}

/// What a guest knows of its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its interfaces in order. Of several default routes of a family that of the first interface counts.
    pub nics: Vec<Nic>,
    /// The text of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The text of `/etc/hosts`.
    pub hosts: String,
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicAddress {
    /// The address.
    pub ip: IpAddr,
    /// The prefix's length in bits.
    pub prefix: u8,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRoute {
    /// Destination; none is the default route.
    pub destination: Option<NicAddress>,
    /// The next hop; none is a destination on the link.
    pub gateway: Option<IpAddr>,
}

/// How much log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes of one file; then it is rotated.
    pub file_bytes: u64,
    /// Files kept, the current one included.
    pub files: u32,
}
