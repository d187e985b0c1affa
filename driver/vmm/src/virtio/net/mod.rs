//! The network device (virtio 1.2 §5.1), a slot for a tap. Packets carry the virtio header that the tap understands,
//! so that checksums and segmentation are left to the packet's final destination.

mod control;
mod kernel_path;
mod offered;
mod server;
mod vhost;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;

use self::control::Control;
use self::kernel_path::KernelQueue;
use self::server::Server;
use self::vhost::Vhost;
use super::{Active, ConfigSpace, VirtioDevice};
use crate::config::{MacAddress, NicConfig, RateLimit, TapQueue};
use crate::layout::MAX_QUEUE_PAIRS;
use crate::{Error, Result};

ioctl_iow_nr!(TUNSETOFFLOAD, 0x54, 208, libc::c_uint);
ioctl_iow_nr!(TUNSETVNETHDRSZ, 0x54, 216, libc::c_int);

/// Size of `struct virtio_net_hdr_v1`.
const HEADER_SIZE: libc::c_int = 12;
/// A guest's features and the tap offloads that they permit.
const TAP_OFFLOADS: [(u32, u32); 3] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
];

/// Queue sizes: pairs of a receive and a transmit queue, then the control queue.
const QUEUE_SIZES: [u16; 2 * MAX_QUEUE_PAIRS as usize + 1] = [256; 2 * MAX_QUEUE_PAIRS as usize + 1];
/// Offset of the number of pairs in the configuration space (virtio 1.2 §5.1.4).
const PAIRS_OFFSET: usize = 8;

/// A network interface, or a slot for one.
pub struct Net {
    nic: Option<Nic>,
    mac: MacAddress,
    /// Queue pairs of the device.
    pairs_max: u16,
    /// Queue pairs in use by its driver.
    pairs: u16,
}

/// An interface, by what moves its packets.
enum Nic {
    /// The host's kernel.
    Kernel(Vec<KernelQueue>),
    /// This process.
    Process(File, RateLimit),
}

impl Net {
    /// An empty slot with 1 to 8 queue pairs. `mac` is the device's permanent address; an interface's own address is
    /// set in the guest.
    pub fn new(mac: MacAddress, pairs: u8) -> Self {
        Self { nic: None, mac, pairs_max: pairs.clamp(1, MAX_QUEUE_PAIRS).into(), pairs: 1 }
    }

    /// Connects an interface to the empty slot.
    pub fn insert(&mut self, nic: NicConfig) -> Result<()> {
        if self.nic.is_some() {
            return Err(Error::Slot("it has an interface already".into()));
        }
        self.nic = Some(Nic::new(nic, self.pairs_max)?);
        Ok(())
    }

    /// Disconnects the interface and closes its tap.
    pub fn eject(&mut self) -> Result<()> {
        self.nic.take().map(drop).ok_or_else(|| Error::Slot("it has no interface".into()))
    }

    fn has_control(&self) -> bool {
        self.pairs_max > 1
    }
}

impl Nic {
    /// An interface for a device with `pairs` queue pairs.
    fn new(config: NicConfig, pairs: u16) -> Result<Self> {
        let NicConfig { queues, limit } = config;
        queues.iter().try_for_each(|queue| prepare(&queue.tap))?;
        let (is_unlimited, is_one_each) = (limit == RateLimit::default(), queues.len() == usize::from(pairs));
        if is_unlimited && is_one_each && queues.iter().all(|queue| queue.vhost.is_some()) {
            let with_path = |TapQueue { tap, vhost }| Some(KernelQueue::new(tap, Vhost::new(vhost?)));
            return Ok(Self::Kernel(queues.into_iter().filter_map(with_path).collect()));
        }
        let first =
            queues.into_iter().next().ok_or_else(|| Error::Slot("the interface has no tap".into()))?;
        Ok(Self::Process(first.tap, limit))
    }

    /// Falls back to this process where the kernel cannot serve the driver.
    fn leave_kernel(&mut self) {
        if let Self::Kernel(queues) = self
            && let Some(first) = std::mem::take(queues).into_iter().next()
        {
            *self = Self::Process(first.into_tap(), RateLimit::default());
        }
    }

    fn serve(&mut self, active: &mut Active, control: &mut Control) -> Result<()> {
        if let Self::Kernel(queues) = self
            && !can_serve(queues, active)
        {
            self.leave_kernel();
        }
        match self {
            Self::Kernel(queues) => {
                queues.iter().take(1).try_for_each(|first| set_offloads(first.tap(), active.features))?;
                kernel_path::serve(queues, active, control)
            }
            Self::Process(tap, limit) => {
                set_offloads(tap, active.features)?;
                Server::new(tap, active, control, *limit)?.run()
            }
        }
    }
}

/// Whether the kernel can serve all queues of the driver.
fn can_serve(queues: &mut [KernelQueue], active: &Active) -> bool {
    queues.iter_mut().all(|queue| match queue.prepare(active) {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!("the kernel lacks features of this guest's driver; its packets are moved here");
            false
        }
        Err(e) => {
            tracing::warn!(error = %e, "packets are moved here");
            false
        }
    })
}

/// Makes a tap non-blocking, with virtio 1 headers.
fn prepare(tap: &File) -> Result<()> {
    // SAFETY: fcntl on an open descriptor, with integer arguments.
    let status = unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    check(status, "make a tap non-blocking")?;
    // SAFETY: the argument points to an integer that lives through the call.
    let status = unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ(), &HEADER_SIZE) };
    check(status, "set a tap's header size")
}

/// Sets the tap's offloads to those that the guest's driver has accepted.
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
        let several = if self.has_control() { 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ } else { 0 };
        several
            | (1 << VIRTIO_NET_F_MAC)
            | (1 << VIRTIO_NET_F_MRG_RXBUF)
            | (1 << VIRTIO_NET_F_CSUM)
            | (1 << VIRTIO_NET_F_HOST_TSO4)
            | (1 << VIRTIO_NET_F_HOST_TSO6)
            | (1 << VIRTIO_NET_F_GUEST_CSUM)
            | (1 << VIRTIO_NET_F_GUEST_TSO4)
            | (1 << VIRTIO_NET_F_GUEST_TSO6)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES[..2 * usize::from(self.pairs_max) + usize::from(self.has_control())]
    }

    fn config_space(&self) -> ConfigSpace {
        let mut bytes = self.mac.0.to_vec();
        if self.has_control() {
            bytes.resize(PAIRS_OFFSET, 0);
            bytes.extend(self.pairs_max.to_le_bytes());
        }
        ConfigSpace::new(&bytes)
    }

    /// A control queue is served even while the slot is empty.
    fn is_present(&self) -> bool {
        self.nic.is_some() || self.has_control()
    }

    fn queue_pairs(&self) -> u16 {
        self.pairs
    }

    fn set_queue_pairs(&mut self, pairs: u16) -> Result<()> {
        if !(1..=self.pairs_max).contains(&pairs) {
            return Err(Error::Snapshot(format!("an interface of {} pairs has {pairs}", self.pairs_max)));
        }
        self.pairs = pairs;
        Ok(())
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        let mut control = Control::new(active.features, self.pairs_max, self.pairs);
        let served = match &mut self.nic {
            Some(nic) => nic.serve(active, &mut control),
            None => kernel_path::serve(&mut [], active, &mut control),
        };
        self.pairs = control.pairs;
        served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn has_several(device: &Net) -> bool {
        device.features() & (1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ) != 0
    }

    #[test]
    fn a_device_of_one_pair_has_nothing_to_control() {
        let device = Net::new(MAC, 1);
        assert_eq!(
            (device.queue_sizes().len(), has_several(&device), device.is_present()),
            (2, false, false)
        );
    }

    #[test]
    fn a_driver_finds_several_pairs_and_begins_with_one() {
        let mut device = Net::new(MAC, 4);
        assert_eq!((device.queue_sizes().len(), has_several(&device), device.is_present()), (9, true, true));
        let mut pairs = [0; 2];
        device.config_space().read(PAIRS_OFFSET as u64, &mut pairs);
        assert_eq!((pairs, device.queue_pairs()), ([4, 0], 1));
        device.set_queue_pairs(4).unwrap();
        assert_eq!(device.queue_pairs(), 4);
        for untrue in [0, 5] {
            assert!(device.set_queue_pairs(untrue).is_err());
        }
    }
}
