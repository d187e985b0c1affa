//! The network device (virtio 1.2 §5.1), a slot for a tap. Packets carry the virtio header that the tap
//! understands, so that checksums and segmentation are left to whom the packet reaches last.

mod offered;
mod server;
mod vhost;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;

use self::server::Server;
use self::vhost::Vhost;
use super::{Active, ConfigSpace, Medium, RateLimit, VirtioDevice};
use crate::config::{MacAddress, NicConfig};
use crate::{Error, Result};

ioctl_iow_nr!(TUNSETOFFLOAD, 0x54, 208, libc::c_uint);
ioctl_iow_nr!(TUNSETVNETHDRSZ, 0x54, 216, libc::c_int);

/// `struct virtio_net_hdr_v1`.
const HEADER_SIZE: libc::c_int = 12;
/// What a guest's feature lets the tap leave undone.
const TAP_OFFLOADS: [(u32, u32); 3] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
];

/// A network interface, or a slot for one.
pub struct Net {
    nic: Option<Nic>,
    mac: MacAddress,
}

struct Nic {
    tap: File,
    vhost: Option<Vhost>,
    limit: RateLimit,
}

impl Net {
    /// An empty slot. Its driver gets `mac`, and whoever sets up what is put in gives it the right one.
    pub fn new(mac: MacAddress) -> Self {
        Self { nic: None, mac }
    }
}

/// Prepares a tap: non-blocking, headers of virtio 1.
fn prepare(tap: &File) -> Result<()> {
    // SAFETY: fcntl on an open descriptor, with integer arguments.
    let status = unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    check(status, "make a tap non-blocking")?;
    // SAFETY: the argument points to an integer that lives through the call.
    let status = unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ(), &HEADER_SIZE) };
    check(status, "set a tap's header size")
}

/// Lets the tap leave to the guest what the guest's driver can do.
fn set_offloads(tap: &File, features: u64) -> Result<()> {
    let accepted = |(feature, _): &&(u32, u32)| features & (1 << feature) != 0;
    let offloads = TAP_OFFLOADS.iter().filter(accepted).fold(0, |set, (_, offload)| set | offload);
    // SAFETY: the argument is a plain set of bits.
    let status = unsafe { ioctl_with_val(tap, TUNSETOFFLOAD(), offloads.into()) };
    check(status, "set a tap's offloads")
}

fn check(status: libc::c_int, what: &'static str) -> Result<()> {
    if status < 0 { Err(Error::Io { what, source: io::Error::last_os_error() }) } else { Ok(()) }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_NET_F_MAC)
            | (1 << VIRTIO_NET_F_MRG_RXBUF)
            | (1 << VIRTIO_NET_F_CSUM)
            | (1 << VIRTIO_NET_F_HOST_TSO4)
            | (1 << VIRTIO_NET_F_HOST_TSO6)
            | (1 << VIRTIO_NET_F_GUEST_CSUM)
            | (1 << VIRTIO_NET_F_GUEST_TSO4)
            | (1 << VIRTIO_NET_F_GUEST_TSO6)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(&self.mac.0)
    }

    fn is_present(&self) -> bool {
        self.nic.is_some()
    }

    fn insert(&mut self, medium: Medium) -> Result<()> {
        match medium {
            Medium::Nic(_) if self.nic.is_some() => Err(Error::Slot("it has an interface already".into())),
            Medium::Nic(NicConfig { tap, vhost, limit }) => {
                prepare(&tap)?;
                // The kernel's path knows no limits.
                let vhost = if limit == RateLimit::default() { vhost.map(Vhost::new) } else { None };
                self.nic = Some(Nic { tap, vhost, limit });
                Ok(())
            }
            Medium::Disk(_) => Err(Error::Slot("it takes an interface, not a disk".into())),
        }
    }

    fn eject(&mut self) -> Result<()> {
        self.nic.take().map(drop).ok_or_else(|| Error::Slot("it has no interface".into()))
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        let Some(Nic { tap, vhost, limit }) = &mut self.nic else { return Ok(()) };
        set_offloads(tap, active.features)?;
        if let Some(vhost) = vhost {
            match vhost.prepare(&active.memory, active.features) {
                Ok(true) => return vhost.serve(tap, active),
                Ok(false) => tracing::warn!(
                    "the kernel lacks features of this guest's driver; its packets are moved here"
                ),
                Err(e) => tracing::warn!("packets are moved here: {e}"),
            }
        }
        Server::new(tap, active, *limit)?.run()
    }
}
