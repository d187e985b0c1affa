//! Virtio devices behind the MMIO transport (virtio 1.2 §4.2).
//!
//! Each device has one worker thread while its driver is active. The worker owns the device and its queues, so
//! that no lock is held while a queue is served; a reset ends the worker and takes the device back.
//!
//! Disks and interfaces are slots: devices that the guest finds at its start and that may be empty. The driver learns
//! of a change by a configuration interrupt.

mod backend;
mod balloon;
mod block;
mod config_space;
mod handles;
mod interrupt;
mod mem;
mod mmio;
mod net;
mod poll;
mod rate;
mod register;
mod requests;
mod rng;
mod state;
mod stop;
mod throttle;
mod timer;
mod traffic;
mod vsock;
mod worker;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

pub use balloon::Balloon;
pub use block::{Block, Patience};
pub use config_space::ConfigSpace;
pub use handles::{BlockSlot, MemHandle, NicSlot};
pub use interrupt::{Interrupt, LentLine};
pub use mem::{Mem, MemGauge};
pub use mmio::{MmioTransport, SharedTransport};
pub use net::Net;
pub use rng::Rng;
pub use state::TransportState;
pub use stop::Stop;
pub use traffic::{Flow, Traffic, TrafficCounter};
pub use vsock::{Clients, Vsock};
pub use worker::Workers;

use crate::memory::Memory;
use crate::{Error, Result};

/// Size of an element of the available ring, and offset of the first one (virtio 1.2 §2.7.6).
const AVAIL_ELEMENT: u64 = 2;
const AVAIL_ELEMENTS: u64 = 4;

/// A device behind its transport.
pub trait VirtioDevice: Send + 'static {
    /// The device's number (virtio 1.2 §5).
    fn device_type(&self) -> u32;
    /// Feature bits that the device offers, without those of the transport.
    fn features(&self) -> u64;
    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &'static [u16];
    /// The device's configuration space.
    fn config_space(&self) -> ConfigSpace;
    /// Serves the queues until `active.stop` is ordered. In-flight requests are finished before it returns.
    fn serve(&mut self, active: &mut Active) -> Result<()>;
    /// Whether the device needs a worker: an empty slot has none.
    fn is_present(&self) -> bool {
        true
    }
    /// Queue pairs in use by an interface's driver (virtio 1.2 §5.1.6.5.6).
    fn queue_pairs(&self) -> u16 {
        1
    }
    /// Sets the queue pairs in use. The device must not be served meanwhile.
    fn set_queue_pairs(&mut self, _: u16) -> Result<()> {
        Ok(())
    }
}

/// A device as the bus sees it: a register window with a worker behind it.
pub trait BusDevice: Send {
    /// A load by the driver, `offset` bytes into the window.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// A store by the driver.
    fn write(&mut self, offset: u64, data: &[u8]);
    /// Ends the worker, if there is one.
    fn stop(&mut self);
    /// Starts a worker again, if the driver is active.
    fn resume(&mut self) -> Result<()>;
    /// Ends the worker and releases the device for good. A later change or resume fails.
    fn close(&mut self);
    /// The state of a stopped device.
    fn state(&mut self) -> Result<TransportState>;
    /// Brings a new device to `state`. It is served once it is resumed.
    fn restore(&mut self, state: &TransportState) -> Result<()>;
}

/// A device's resources while its driver is active.
pub struct Active {
    /// The guest's memory, which the machine keeps mapped while any device is served.
    pub memory: Memory,
    /// The queues, each validated once.
    pub queues: Vec<Queue>,
    /// Signalled by the guest, one for each queue.
    pub notifications: Vec<EventFd>,
    /// Notifies the guest of used buffers.
    pub interrupt: Interrupt,
    /// The features that the driver accepted.
    pub features: u64,
    /// Set when the worker must end.
    pub stop: Stop,
}

impl Active {
    /// Takes the next chain of queue `index`. If there is none, notifications are enabled and the ring is checked once
    /// more, so that no chain is missed. Once the worker must end there is none. An inconsistent ring is an
    /// error: it would never be empty. So is a chain that leads to an indirect table.
    pub fn pop<'m>(
        &mut self,
        index: usize,
        memory: &'m Memory,
    ) -> Result<Option<DescriptorChain<&'m Memory>>> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(None) };
        while !self.stop.is_ordered() {
            if let Some(chain) = queue.iter(memory).map_err(Error::queue)?.next() {
                return if is_direct(memory, queue, chain.head_index()) {
                    Ok(Some(chain))
                } else {
                    Err(Error::Config("a driver uses an indirect table, which was not offered".into()))
                };
            }
            if !queue.enable_notification(memory).map_err(Error::queue)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Returns a chain of which the device filled `written` bytes.
    pub fn give_back(&mut self, index: usize, head: u16, written: u32) -> Result<()> {
        match self.queues.get_mut(index) {
            Some(queue) => queue.add_used(&self.memory, head, written).map_err(Error::queue),
            None => Ok(()),
        }
    }

    /// Raises the queue interrupt if the driver wants one for queue `index`.
    pub fn notify_driver(&mut self, index: usize) -> Result<()> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        if queue.needs_notification(&self.memory).map_err(Error::queue)? {
            self.interrupt.queue();
        }
        Ok(())
    }

    /// As [`Self::notify_driver`], for buffers that were not all returned through [`Self::give_back`]: those used
    /// since the used index was `before`.
    pub fn notify_driver_since(&mut self, index: usize, before: u16) -> Result<()> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        let now = queue.next_used();
        let mut wanted = now != before && queue.needs_notification(&self.memory).map_err(Error::queue)?;
        if now != before && queue.event_idx_enabled() {
            // `used_event` follows the available ring (virtio 1.2 §2.7.10).
            let address = queue.avail_ring() + AVAIL_ELEMENTS + AVAIL_ELEMENT * u64::from(queue.size());
            let awaited = u16::from_le(self.memory.read_obj(GuestAddress(address))?);
            wanted = now.wrapping_sub(awaited).wrapping_sub(1) < now.wrapping_sub(before);
        }
        if wanted {
            self.interrupt.queue();
        }
        Ok(())
    }
}

/// Whether a chain has only descriptors of its queue's own table. An indirect table (virtio 1.2 §2.7.5.3), which no
/// device offers, may have 65535 more.
fn is_direct(memory: &Memory, queue: &Queue, head: u16) -> bool {
    let mut index = head;
    for _ in 0..queue.size() {
        let address = queue.desc_table() + u64::from(index) * size_of::<Descriptor>() as u64;
        let Ok(descriptor) = memory.read_obj::<Descriptor>(GuestAddress(address)) else { return true };
        if descriptor.refers_to_indirect_table() {
            return false;
        }
        if !descriptor.has_next() {
            return true;
        }
        index = descriptor.next();
    }
    true
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT};
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
    use crate::event::event_fd;

    /// A queue of 16 in which the driver has put these chains of one descriptor each.
    fn active(memory: &Memory, chains: &[Descriptor]) -> Active {
        let mock = MockSplitQueue::new(memory, 16);
        let descriptors: Vec<_> = chains.iter().map(|one| RawDescriptor::from(*one)).collect();
        mock.add_desc_chains(&descriptors, 0).unwrap();
        Active {
            memory: memory.clone(),
            queues: vec![mock.create_queue().unwrap()],
            notifications: Vec::new(),
            interrupt: Interrupt::new(event_fd().unwrap().into()),
            features: 0,
            stop: Stop::new().unwrap(),
        }
    }

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    #[test]
    fn a_ring_that_runs_ahead_of_itself_is_an_error() {
        let memory = memory();
        let mut active = active(&memory, &[]);
        assert!(active.pop(0, &memory).unwrap().is_none());
        let ring = GuestAddress(active.queues[0].avail_ring() + 2);
        memory.write_obj(17u16, ring).unwrap();
        assert!(active.pop(0, &memory).is_err(), "17 buffers in a ring of 16");
    }

    #[test]
    fn a_full_queue_does_not_keep_a_worker_that_must_end() {
        let memory = memory();
        let mut active = active(&memory, &[Descriptor::new(0x8000, 16, 0, 0); 4]);
        assert!(active.pop(0, &memory).unwrap().is_some());
        active.stop.order().unwrap();
        assert!(active.pop(0, &memory).unwrap().is_none());
        assert_eq!(active.queues[0].next_avail(), 1, "what was not taken is still the driver's");
    }

    /// How many descriptors a chain has that begins with the first of a table; `None` if it leads to an indirect one.
    fn walked(table: &[Descriptor]) -> Option<usize> {
        let (mut index, mut count) = (0, 0);
        while let Some(descriptor) = table.get(index).filter(|_| count < table.len()) {
            if descriptor.refers_to_indirect_table() {
                return None;
            }
            count += 1;
            if !descriptor.has_next() {
                break;
            }
            index = descriptor.next().into();
        }
        Some(count)
    }

    #[test]
    fn a_walk_through_any_table_ends_within_it() {
        const SIZE: u32 = 4;
        let (next, indirect) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_INDIRECT as u16);
        let flags = [0, next, indirect, next | indirect];
        let leads = |flags| [0, 1, 2, 3, SIZE as u16].map(|next| Descriptor::new(0x8000, 16, flags, next));
        let each: Vec<Descriptor> = flags.into_iter().flat_map(leads).collect();
        let memory = memory();
        let mut active = active(&memory, &[each[0]]);
        active.queues[0].set_size(SIZE as u16);
        for number in 0..each.len().pow(SIZE) {
            let table: Vec<_> = (0..SIZE).map(|n| each[number / each.len().pow(n) % each.len()]).collect();
            for (at, descriptor) in table.iter().enumerate() {
                let at = GuestAddress(active.queues[0].desc_table() + at as u64 * 16);
                memory.write_obj(RawDescriptor::from(*descriptor), at).unwrap();
            }
            active.queues[0].set_next_avail(0);
            let found = active.pop(0, &memory).map(|chain| chain.unwrap().count()).ok();
            assert_eq!(found, walked(&table), "{table:?}");
        }
    }

    #[test]
    fn an_indirect_table_is_refused_wherever_a_chain_leads_to_it() {
        let memory = memory();
        let table = Descriptor::new(0x8000, 65535 * 16, VRING_DESC_F_INDIRECT as u16, 0);
        assert!(active(&memory, &[table]).pop(0, &memory).is_err());
        let mut later = active(&memory, &[Descriptor::new(0x8000, 16, VRING_DESC_F_NEXT as u16, 1)]);
        memory
            .write_obj(RawDescriptor::from(table), GuestAddress(later.queues[0].desc_table() + 16))
            .unwrap();
        assert!(later.pop(0, &memory).is_err());
    }
}
