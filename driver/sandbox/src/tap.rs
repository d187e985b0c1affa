//! A tap that exists already: attaching to it, what moves its packets, and what went through it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;

use shim_control::Flow;

use crate::error::{Error, Result};

const INTERFACES: &str = "/sys/class/net";

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);

/// Opens `queues` queues of the tap `name`, with virtio headers on its packets; one that was made with one has no more.
pub fn open(name: &str, queues: u8) -> Result<Vec<File>> {
    let opened = flags(name).and_then(|flags| {
        let several = flags & libc::IFF_MULTI_QUEUE;
        let queues = if several == 0 { 1 } else { queues };
        (0..queues).map(|_| attach(name, several)).collect()
    });
    opened.map_err(Error::io("open tap", name))
}

/// What kind of tap there is. The kernel would make one that is not there.
fn flags(name: &str) -> io::Result<libc::c_int> {
    let text = std::fs::read_to_string(Path::new(INTERFACES).join(name).join("tun_flags"))?;
    let digits = text.trim().trim_start_matches("0x");
    libc::c_int::from_str_radix(digits, 16).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn attach(name: &str, several: libc::c_int) -> io::Result<File> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several) as libc::c_short;
    // SAFETY: the descriptor is open and the request lives through the call.
    unsafe { tun_set_iff(tap.as_raw_fd(), &raw const request) }?;
    Ok(tap)
}

/// The kernel's own data path for so many queues, where this host has it.
pub fn open_data_paths(queues: u8) -> Vec<File> {
    let open = |_| File::options().read(true).write(true).open("/dev/vhost-net");
    let opened: io::Result<_> = (0..queues).map(open).collect();
    opened.unwrap_or_else(|e| {
        tracing::debug!(error = %e, "packets are moved by the shim, without /dev/vhost-net");
        Vec::new()
    })
}

/// What went through a tap: to its guest, and from it. What the host sends, a guest receives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// To the guest.
    pub incoming: Flow,
    /// From the guest.
    pub outgoing: Flow,
}

impl TapCounters {
    /// The host's counters of a tap; none if there is no such tap.
    pub fn read(tap: &str) -> Option<Self> {
        let folder = Path::new(INTERFACES).join(tap).join("statistics");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
        let flow = |bytes, packets| Some(Flow { bytes: read(bytes)?, operations: read(packets)? });
        Some(Self { incoming: flow("tx_bytes", "tx_packets")?, outgoing: flow("rx_bytes", "rx_packets")? })
    }
}
