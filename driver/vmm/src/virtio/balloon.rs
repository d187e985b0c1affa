//! The memory balloon device (virtio 1.2 §5.5), used for free page reporting only. The host never asks for memory, so
//! that the balloon itself stays empty.

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::DescriptorChain;
use vmm_sys_util::epoll::EventSet;

use super::poll::{Poll, drain};
use super::{Active, ConfigSpace, VirtioDevice};
use crate::Result;
use crate::memory::{Memory, discard};

/// `VIRTIO_BALLOON_F_PAGE_REPORTING` (virtio 1.2 §5.5.3).
const FEATURE_REPORTING: u32 = 5;
/// Inflate, deflate and reporting, the only optional queue that is offered.
const QUEUE_SIZES: [u16; 3] = [64, 64, 64];
const REPORTS: usize = 2;
const STOP: u64 = QUEUE_SIZES.len() as u64;
/// `num_pages`, `actual`, `free_page_hint_cmd_id`, `poison_val`: all zero.
const CONFIG: [u8; 16] = [0; 16];

/// A balloon that is always empty.
pub struct Balloon;

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        1 << FEATURE_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(&CONFIG)
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        let poll = Poll::new()?;
        for (token, notification) in (0..).zip(&active.notifications) {
            poll.add(notification, token, EventSet::IN)?;
        }
        poll.add(&active.stop, STOP, EventSet::IN)?;
        loop {
            for ready in poll.wait()? {
                match usize::try_from(ready.token) {
                    Ok(index) if index < QUEUE_SIZES.len() => {
                        drain(&active.notifications[index]);
                        serve_queue(active, index)?;
                    }
                    _ => return Ok(()),
                }
            }
        }
    }
}

/// Buffers of the inflate queue are returned without effect: the host has not asked for memory.
fn serve_queue(active: &mut Active, index: usize) -> Result<()> {
    let memory = active.memory.clone();
    while let Some(chain) = active.pop(index, &memory)? {
        let head = chain.head_index();
        if index == REPORTS {
            give_memory_back(&memory, chain);
        }
        active.give_back(index, head, 0)?;
    }
    active.notify_driver(index)
}

/// Returns the pages of a report to the host.
fn give_memory_back(memory: &Memory, chain: DescriptorChain<&Memory>) {
    for descriptor in chain.writable() {
        if let Err(e) = discard(memory, descriptor.addr(), u64::from(descriptor.len())) {
            // Debug only: a guest can cause this without end, and must not fill the host's log.
            tracing::debug!(error = %e, "a guest's report of free memory is not used");
        }
    }
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::QueueT;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const MEMORY: u64 = 4 << 20;

    /// Fills memory with ones, reports `ranges` of (address, length), and returns the bytes at the addresses `asked`.
    fn after_report(ranges: &[(u64, u32)], asked: &[u64]) -> Vec<u8> {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        memory.write_slice(&vec![1; 1 << 20], GuestAddress(1 << 20)).unwrap();
        let flags = |more: bool| VRING_DESC_F_WRITE | if more { VRING_DESC_F_NEXT } else { 0 };
        let chain: Vec<_> = ranges
            .iter()
            .enumerate()
            .map(|(n, (address, length))| {
                let more = n + 1 < ranges.len();
                RawDescriptor::from(Descriptor::new(*address, *length, flags(more) as u16, n as u16 + 1))
            })
            .collect();
        let mock = MockSplitQueue::new(&memory, 16);
        mock.build_desc_chain(&chain).unwrap();
        let mut queue: virtio_queue::Queue = mock.create_queue().unwrap();
        give_memory_back(&memory, queue.pop_descriptor_chain(&memory).unwrap());
        asked.iter().map(|address| memory.read_obj(GuestAddress(*address)).unwrap()).collect()
    }

    #[test]
    fn reported_pages_are_given_back_and_no_others() {
        let base = 1 << 20;
        let seen = after_report(
            &[(base, 8192), (base + 65536, 4096)],
            &[base, base + 4096, base + 8192, base + 65536, base + 69632],
        );
        assert_eq!(seen, [0, 0, 1, 0, 1]);
    }

    #[test]
    fn a_report_of_no_whole_pages_or_of_memory_that_is_not_there_changes_nothing() {
        let base = 1 << 20;
        for bad in [(base + 1, 4096), (base, 4095), (MEMORY - 4096, 8192), (u64::MAX - 4095, 4096)] {
            assert_eq!(after_report(&[bad], &[base]), [1], "{bad:?}");
        }
    }
}
