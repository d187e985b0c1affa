//! The data path of the host's kernel (`linux/vhost.h`), which moves packets between a tap and the guest's queues
//! without waking a thread of this process.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{VHOST_NET_SET_BACKEND, vhost_vring_file};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::check;
use crate::memory::Memory;
use crate::virtio::{Active, LentLine};
use crate::{Error, Result};

/// Features that concern the queues; those that concern packets are set on the tap.
const OF_QUEUES: u64 = (1 << VIRTIO_F_VERSION_1)
    | (1 << VIRTIO_RING_F_EVENT_IDX)
    | (1 << VIRTIO_RING_F_INDIRECT_DESC)
    | (1 << VIRTIO_NET_F_MRG_RXBUF);
/// Offset of the index in a used ring (virtio 1.2 §2.7.8).
const USED_INDEX: u64 = 2;
const NO_BACKEND: RawFd = -1;
/// Number of queues that one vhost device serves.
const PAIR: usize = 2;

/// An open `/dev/vhost-net`.
#[derive(Debug)]
pub struct Vhost {
    device: File,
    is_owned: bool,
}

impl Vhost {
    /// A freshly opened device.
    pub fn new(device: File) -> Self {
        Self { device, is_owned: false }
    }

    /// Gives the kernel the guest's memory. Returns false if it cannot serve a driver that has accepted `features`.
    pub fn prepare(&mut self, memory: &Memory, features: u64) -> Result<bool> {
        let backend = Backend { device: &self.device, memory };
        if !self.is_owned {
            backend.set_owner().map_err(failed("own"))?;
            self.is_owned = true;
        }
        let wanted = features & OF_QUEUES;
        if backend.get_features().map_err(failed("ask"))? & wanted != wanted {
            return Ok(false);
        }
        backend.set_features(wanted).map_err(failed("set the features of"))?;
        backend.set_mem_table(&regions(memory)?).map_err(failed("give the guest's memory to"))?;
        Ok(true)
    }

    /// Makes the prepared device serve a queue pair with a tap queue, and interrupt the guest through `line`.
    pub fn start(&self, tap: &File, active: &Active, pair: usize, line: &LentLine) -> Result<()> {
        let backend = Backend { device: &self.device, memory: &active.memory };
        let queues = active.queues.iter().zip(&active.notifications).skip(pair * PAIR).take(PAIR);
        for (index, (queue, notification)) in queues.enumerate() {
            backend.give(index, queue, notification, line).map_err(failed("give a queue to"))?;
        }
        (0..PAIR).try_for_each(|index| backend.set_backend(index, tap.as_raw_fd()))
    }

    /// Takes a queue pair back, with the positions that the kernel has reached.
    pub fn stop(&self, active: &mut Active, pair: usize) -> Result<()> {
        let backend = Backend { device: &self.device, memory: &active.memory };
        let queues = active.queues.iter_mut().skip(pair * PAIR).take(PAIR);
        queues.enumerate().try_for_each(|(index, queue)| backend.take(index, queue))
    }
}

/// The device with the guest's memory.
struct Backend<'a> {
    device: &'a File,
    memory: &'a Memory,
}

impl AsRawFd for Backend<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl<'a> VhostKernBackend for Backend<'a> {
    type AS = &'a Memory;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }
}

impl Backend<'_> {
    fn give(
        &self,
        index: usize,
        queue: &Queue,
        notification: &EventFd,
        line: &LentLine,
    ) -> vhost::Result<()> {
        let addresses = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        self.set_vring_num(index, queue.size())?;
        self.set_vring_base(index, queue.next_avail())?;
        self.set_vring_addr(index, &addresses)?;
        self.set_vring_call(index, line.event())?;
        self.set_vring_kick(index, notification)
    }

    fn take(&self, index: usize, queue: &mut Queue) -> Result<()> {
        self.set_backend(index, NO_BACKEND)?;
        let next = self.get_vring_base(index).map_err(failed("take a queue from"))?;
        queue.set_next_avail(next as u16);
        let used: u16 = self.memory.read_obj(GuestAddress(queue.used_ring() + USED_INDEX))?;
        queue.set_next_used(u16::from_le(used));
        Ok(())
    }

    fn set_backend(&self, index: usize, fd: RawFd) -> Result<()> {
        let file = vhost_vring_file { index: index as u32, fd };
        // SAFETY: the argument points to a structure that lives through the call, which reads it.
        let status = unsafe { ioctl_with_ref(self.device, VHOST_NET_SET_BACKEND(), &file) };
        check(status, "connect a tap to vhost-net")
    }
}

fn regions(memory: &Memory) -> Result<Vec<VhostUserMemoryRegionInfo>> {
    memory
        .iter()
        .map(|region| {
            Ok(VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.get_host_address(MemoryRegionAddress(0))? as u64,
                // Used only by backends in another process, which map a file.
                mmap_offset: 0,
                mmap_handle: -1,
            })
        })
        .collect()
}

fn failed(what: &'static str) -> impl Fn(vhost::Error) -> Error {
    move |source| Error::Vhost { what, source }
}
