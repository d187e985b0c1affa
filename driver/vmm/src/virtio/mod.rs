//! Virtio devices behind the MMIO transport (virtio 1.2 §4.2).
//!
//! Each device has one worker thread while its driver is active. The worker owns the device and its queues, so
//! that no lock is held while a queue is served; a reset ends the worker and takes the device back.
//!
//! Disks and interfaces are slots: a device that the guest finds at its start and that may be empty. What is put
//! into one later the driver learns by an interrupt.

mod backend;
mod balloon;
mod block;
mod config_space;
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
mod throttle;
mod traffic;
mod vsock;
mod worker;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

pub use balloon::Balloon;
pub use block::Block;
pub use config_space::ConfigSpace;
pub use interrupt::{Interrupt, LentLine};
pub use mem::{Mem, MemGauge};
pub use mmio::MmioTransport;
pub use net::Net;
pub use rate::RateLimit;
pub use rng::Rng;
pub use state::TransportState;
pub use traffic::{Flow, Traffic, TrafficCounter};
pub use vsock::{Clients, Vsock};
pub use worker::Workers;

use crate::config::{DiskConfig, NicConfig};
use crate::memory::Memory;
use crate::{Error, Result};

/// Size of an element of the available ring, and where the elements begin (virtio 1.2 §2.7.6).
const AVAIL_ELEMENT: u64 = 2;
const AVAIL_ELEMENTS: u64 = 4;

/// What the transport needs to know of a device.
pub trait VirtioDevice: Send {
    /// The device's number (virtio 1.2 §5).
    fn device_type(&self) -> u32;
    /// Feature bits that the device offers, without those of the transport.
    fn features(&self) -> u64;
    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &'static [u16];
    /// The device's configuration space.
    fn config_space(&self) -> ConfigSpace;
    /// Serves the queues until `active.stop` is signalled. In-flight requests are finished before it returns.
    fn serve(&mut self, active: &mut Active) -> Result<()>;
    /// Whether there is anything to be served: an empty slot has no worker.
    fn is_present(&self) -> bool {
        true
    }
    /// Counts what goes through a slot.
    fn traffic(&self) -> TrafficCounter {
        TrafficCounter::default()
    }
    /// Pairs of queues that an interface's driver makes use of (virtio 1.2 §5.1.6.5.6).
    fn queue_pairs(&self) -> u16 {
        1
    }
    /// Brings a device that is not served to so many pairs.
    fn set_queue_pairs(&mut self, _: u16) -> Result<()> {
        Ok(())
    }
    /// Fills an empty slot.
    fn insert(&mut self, _: Medium) -> Result<()> {
        Err(Error::Slot("the device is no slot".into()))
    }
    /// Empties a slot. What it held is closed.
    fn eject(&mut self) -> Result<()> {
        Err(Error::Slot("the device is no slot".into()))
    }
}

/// What can be put into a slot.
pub enum Medium {
    /// A disk.
    Disk(DiskConfig),
    /// A network interface.
    Nic(NicConfig),
}

/// A device's resources while its driver is active.
pub struct Active {
    /// The guest's memory; the handle keeps the mapping alive.
    pub memory: Memory,
    /// The queues, each validated once.
    pub queues: Vec<Queue>,
    /// Signalled by the guest, one for each queue.
    pub notifications: Vec<EventFd>,
    /// Tells the guest of used buffers.
    pub interrupt: Interrupt,
    /// The features that the driver accepted.
    pub features: u64,
    /// Signalled when the worker must end.
    pub stop: EventFd,
}

impl Active {
    /// Takes the next chain of queue `index`. If there is none, the driver is asked to notify of the next one,
    /// and one that came in the meantime is taken after all. A ring that makes no sense is an error: it would never be empty.
    pub fn pop<'m>(
        &mut self,
        index: usize,
        memory: &'m Memory,
    ) -> Result<Option<DescriptorChain<&'m Memory>>> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(None) };
        loop {
            if let Some(chain) = queue.iter(memory).map_err(Error::queue)?.next() {
                return Ok(Some(chain));
            }
            if !queue.enable_notification(memory).map_err(Error::queue)? {
                return Ok(None);
            }
        }
    }

    /// Gives a chain back, `written` bytes of which the device filled.
    pub fn give_back(&mut self, index: usize, head: u16, written: u32) -> Result<()> {
        match self.queues.get_mut(index) {
            Some(queue) => queue.add_used(&self.memory, head, written).map_err(Error::queue),
            None => Ok(()),
        }
    }

    /// Raises the queue interrupt if the driver wants to hear of queue `index`.
    pub fn notify_driver(&mut self, index: usize) -> Result<()> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        if queue.needs_notification(&self.memory).map_err(Error::queue)? {
            self.interrupt.queue();
        }
        Ok(())
    }

    /// As [`Self::notify_driver`], for buffers of which the queue did not count each: those used since its index was
    /// `before`.
    pub fn notify_driver_since(&mut self, index: usize, before: u16) -> Result<()> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        let now = queue.next_used();
        let mut wanted = now != before && queue.needs_notification(&self.memory).map_err(Error::queue)?;
        if now != before && queue.event_idx_enabled() {
            // `used_event` follows the available ring (virtio 1.2 §2.7.10).
            let place = queue.avail_ring() + AVAIL_ELEMENTS + AVAIL_ELEMENT * u64::from(queue.size());
            let awaited = u16::from_le(self.memory.read_obj(GuestAddress(place))?);
            wanted = now.wrapping_sub(awaited).wrapping_sub(1) < now.wrapping_sub(before);
        }
        if wanted {
            self.interrupt.queue();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
    use crate::hardware::event_fd;

    #[test]
    fn a_ring_that_runs_ahead_of_itself_is_an_error() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let queue: Queue = MockSplitQueue::new(&memory, 16).create_queue().unwrap();
        let ring = GuestAddress(queue.avail_ring() + 2);
        let mut active = Active {
            memory: memory.clone(),
            queues: vec![queue],
            notifications: Vec::new(),
            interrupt: Interrupt::new(event_fd().unwrap()),
            features: 0,
            stop: event_fd().unwrap(),
        };
        assert!(active.pop(0, &memory).unwrap().is_none());
        memory.write_obj(17u16, ring).unwrap();
        assert!(active.pop(0, &memory).is_err(), "17 buffers in a ring of 16");
    }
}
