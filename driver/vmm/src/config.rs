use std::fmt;
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::memory::Growth;
use crate::{Error, Result, layout};

/// The parts of a machine. Host resources come as open descriptors, so that the caller decides how they are found
/// and with which rights.
#[derive(Debug)]
pub struct MachineConfig {
    /// Number of virtual CPUs that the guest starts with.
    pub vcpus: u8,
    /// Number of virtual CPUs that the guest may bring online, 1 to 32.
    pub vcpus_max: u8,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// Memory in MiB that the guest may grow to.
    pub memory_max_mib: u64,
    /// Disk slots in guest order, the first being `/dev/vda`, and the access that the guest has to each.
    pub disk_slots: Vec<DiskAccess>,
    /// Permanent addresses of the interface slots.
    pub nic_slots: Vec<MacAddress>,
    /// Queue pairs of each interface, 1 to 8.
    pub queue_pairs: u8,
    /// The socket device, if the guest has one.
    pub vsock: Option<VsockConfig>,
}

/// The kernel, initial RAM disk and arguments that a machine boots.
#[derive(Debug)]
pub struct BootConfig {
    /// An uncompressed ELF kernel (`vmlinux`) with a PVH entry note.
    pub kernel: PathBuf,
    /// The initial RAM disk, loaded unchanged.
    pub initrd: PathBuf,
    /// Kernel arguments appended to those of the machine.
    pub command_line: String,
}

impl MachineConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.vcpus == 0 || self.vcpus_max > layout::MAX_VCPUS {
            return Err(Error::Config(format!(
                "{} to {} vCPUs asked for, 1 to {} are possible",
                self.vcpus,
                self.vcpus_max,
                layout::MAX_VCPUS
            )));
        }
        if self.vcpus_max < self.vcpus || self.memory_max_mib < self.memory_mib {
            return Err(Error::Config("a machine cannot grow to less than it starts with".into()));
        }
        if self.memory_mib < layout::MIN_MEMORY_MIB {
            return Err(Error::Config(format!(
                "{} MiB of memory asked for, a guest needs at least {} MiB",
                self.memory_mib,
                layout::MIN_MEMORY_MIB
            )));
        }
        if !(1..=layout::MAX_QUEUE_PAIRS).contains(&self.queue_pairs) {
            return Err(Error::Config(format!(
                "{} pairs of queues asked for, 1 to {} are possible",
                self.queue_pairs,
                layout::MAX_QUEUE_PAIRS
            )));
        }
        Ok(())
    }

    /// The address range for memory that is added later, if any may be added.
    pub(crate) fn growth(&self) -> Option<Growth> {
        Growth::between(self.memory_mib, self.memory_max_mib)
    }
}

/// The access that the guest has to the disk in a slot. The disk's file must be opened accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskAccess {
    /// Writes are refused by the device.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// A raw disk image; its length in whole sectors is the disk's capacity.
#[derive(Debug)]
pub struct DiskConfig {
    /// The open image.
    pub file: File,
    /// The disk's serial number; the guest reads its first 20 bytes.
    pub serial: String,
    /// Limit on reads and writes together.
    pub limit: RateLimit,
}

/// A network interface backed by a tap device.
#[derive(Debug)]
pub struct NicConfig {
    /// The tap's queues. The host's kernel moves the packets if there is no limit and each of the guest's queue pairs
    /// has a tap queue with a vhost descriptor; otherwise this process moves all of them through the first tap queue.
    pub queues: Vec<TapQueue>,
    /// Limit for each direction.
    pub limit: RateLimit,
}

/// A queue of a tap.
#[derive(Debug)]
pub struct TapQueue {
    /// A descriptor of `/dev/net/tun` attached to a tap with `IFF_VNET_HDR`.
    pub tap: File,
    /// A descriptor of `/dev/vhost-net`.
    pub vhost: Option<File>,
}

/// A virtio socket device whose host side is a Unix socket.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context identifier, 3 or above.
    pub cid: u32,
    /// Accepts host programs, which send `CONNECT <port>\n` first.
    pub listener: UnixListener,
    /// Receives a byte when the guest tries to connect to the host: the attempt is refused, but shows that the guest
    /// is up.
    pub ready_signal: UnixStream,
}

/// Bounds on what a disk or an interface moves. Zero is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes a second.
    pub bytes: u64,
    /// Bytes that may be moved at once after a pause; at least one second's worth.
    pub burst_bytes: u64,
    /// Operations a second: requests of a disk, packets of an interface.
    pub operations: u64,
    /// Operations that may be done at once after a pause; at least one second's worth.
    pub burst_operations: u64,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// A text that is not six hexadecimal octets separated by colons.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a MAC address")]
pub struct ParseMacError(String);

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let octets: Vec<u8> = text
            .split(':')
            .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
            .collect::<Option<_>>()
            .ok_or_else(error)?;
        octets.try_into().map(MacAddress).map_err(|_| error())
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_and_printed() {
        let mac: MacAddress = "fa:16:3e:00:A1:ff".parse().unwrap();
        assert_eq!(mac, MacAddress([0xfa, 0x16, 0x3e, 0, 0xa1, 0xff]));
        assert_eq!(mac.to_string(), "fa:16:3e:00:a1:ff");
        for bad in ["", "fa:16:3e:00:a1", "fa:16:3e:00:a1:ff:00", "fa:16:3e:0:a1:ff", "gg:16:3e:00:a1:ff"] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?} was taken");
        }
    }
}
