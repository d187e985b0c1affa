use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that a shim needs to bring a sandbox up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The sandbox's identifier.
    pub id: String,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest image.
    pub image: PathBuf,
    /// The guest's host name.
    pub hostname: String,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// The text of `/etc/hosts`.
    pub hosts: String,
    /// Disks in guest order: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// Network interfaces in guest order.
    pub nics: Vec<Nic>,
    /// The container whose end ends the sandbox.
    pub ends_with: Option<String>,
    /// Bounds of the container's log.
    pub log: LogLimits,
}

/// A raw disk image on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// The serial number that the guest sees, at most 20 bytes.
    pub serial: String,
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
