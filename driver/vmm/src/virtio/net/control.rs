//! The control queue (virtio 1.2 §5.1.6.5), on which the driver sets the number of queue pairs in use. No other
//! command is offered.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_MQ, VIRTIO_NET_OK,
};
use virtio_queue::{DescriptorChain, Reader, Writer};

use crate::Result;
use crate::memory::Memory;
use crate::virtio::Active;

/// Class and command; a 16-bit number of pairs follows.
const SET_PAIRS: [u8; 2] = [VIRTIO_NET_CTRL_MQ as u8, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8];

/// The control queue of an active device.
pub struct Control {
    /// The queue's index, if there is one.
    pub queue: Option<usize>,
    /// Queue pairs in use by the driver.
    pub pairs: u16,
    pairs_max: u16,
}

impl Control {
    /// For a device of `pairs_max` queue pairs whose driver has accepted `features` and uses `pairs`.
    pub fn new(features: u64, pairs_max: u16, pairs: u16) -> Self {
        let accepted = |feature: u32| features & (1 << feature) != 0;
        // The queue follows the pairs that the driver knows of (virtio 1.2 §5.1.2).
        let pairs_max = if accepted(VIRTIO_NET_F_MQ) { pairs_max } else { 1 };
        let queue = accepted(VIRTIO_NET_F_CTRL_VQ).then_some(2 * usize::from(pairs_max));
        Self { queue, pairs, pairs_max }
    }

    /// Answers the driver's commands. `use_pairs` applies a number of pairs before the driver is told that it is set.
    pub fn serve(
        &mut self,
        active: &mut Active,
        mut use_pairs: impl FnMut(&mut Active, u16) -> Result<()>,
    ) -> Result<()> {
        let Some(queue) = self.queue else { return Ok(()) };
        let memory = active.memory.clone();
        while let Some(chain) = active.pop(queue, &memory)? {
            let wanted = pairs_wanted(chain.clone(), &memory);
            let answer = match wanted.filter(|pairs| (1..=self.pairs_max).contains(pairs)) {
                Some(pairs) => {
                    use_pairs(active, pairs)?;
                    self.pairs = pairs;
                    VIRTIO_NET_OK
                }
                None => VIRTIO_NET_ERR,
            };
            let head = chain.head_index();
            let written = is_answered(chain, &memory, answer);
            active.give_back(queue, head, written.into())?;
        }
        active.notify_driver(queue)
    }
}

/// The number of pairs that a command sets; `None` for any other command.
fn pairs_wanted(chain: DescriptorChain<&Memory>, memory: &Memory) -> Option<u16> {
    let mut reader: Reader<'_> = chain.reader(memory).ok()?;
    let [class, command, low, high] = reader.read_obj().ok()?;
    ([class, command] == SET_PAIRS).then_some(u16::from_le_bytes([low, high]))
}

/// Writes the answer; false if the chain has no room for it.
fn is_answered(chain: DescriptorChain<&Memory>, memory: &Memory, answer: u32) -> bool {
    let writer: Option<Writer<'_>> = chain.writer(memory).ok();
    writer.is_some_and(|mut writer| writer.write_obj(answer as u8).is_ok())
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::QueueT;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::event::event_fd;
    use crate::virtio::{Interrupt, Stop};

    const COMMAND: u64 = 0x10_0000;
    const ANSWER: u64 = 0x10_1000;
    const UNANSWERED: u8 = 0xff;
    const FEATURES: u64 = 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ;

    /// Sends `command`, its first two bytes in a buffer of their own as Linux does. Returns the answer and the pairs
    /// set.
    fn ask(command: &[u8], answer_size: u32) -> (u8, Vec<u16>) {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        let (next, write) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
        let rest = command.len().saturating_sub(2) as u32;
        let pieces = [
            Descriptor::new(COMMAND, command.len() as u32 - rest, next, 1),
            Descriptor::new(COMMAND + 2, rest, next, 2),
            Descriptor::new(ANSWER, answer_size, write, 0),
        ];
        mock.build_desc_chain(&pieces.map(RawDescriptor::from)).unwrap();
        memory.write_slice(command, GuestAddress(COMMAND)).unwrap();
        memory.write_obj(UNANSWERED, GuestAddress(ANSWER)).unwrap();
        let mut control = Control::new(FEATURES, 4, 1);
        let queue = control.queue.unwrap();
        let mut active = Active {
            memory: memory.clone(),
            queues: (0..=queue).map(|_| mock.create_queue().unwrap()).collect(),
            notifications: Vec::new(),
            interrupt: Interrupt::new(event_fd().unwrap().into()),
            features: FEATURES,
            stop: Stop::new().unwrap(),
        };
        let mut used = Vec::new();
        control
            .serve(&mut active, |_, pairs| {
                used.push(pairs);
                Ok(())
            })
            .unwrap();
        assert_eq!(control.pairs, used.last().copied().unwrap_or(1));
        assert_eq!(active.queues[queue].next_used(), 1, "the buffer is given back");
        (memory.read_obj(GuestAddress(ANSWER)).unwrap(), used)
    }

    #[test]
    fn a_number_of_pairs_is_taken_as_far_as_there_are_so_many() {
        for pairs in [1, 2, 4] {
            assert_eq!(ask(&[4, 0, pairs, 0], 1), (VIRTIO_NET_OK as u8, vec![pairs.into()]));
        }
        for [low, high] in [[0, 0], [5, 0], [1, 1]] {
            assert_eq!(ask(&[4, 0, low, high], 1), (VIRTIO_NET_ERR as u8, vec![]), "{low} {high}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        for command in [&[0, 0, 1, 0][..], &[4, 1, 2, 0], &[4, 0, 2], &[4, 0], &[4]] {
            assert_eq!(ask(command, 1), (VIRTIO_NET_ERR as u8, vec![]), "{command:?}");
        }
        assert_eq!(ask(&[4, 0, 2, 0], 0), (UNANSWERED, vec![2]), "there is no room for an answer");
    }

    #[test]
    fn the_queue_is_where_the_driver_expects_it() {
        assert_eq!(Control::new(FEATURES, 4, 1).queue, Some(8));
        assert_eq!(Control::new(1 << VIRTIO_NET_F_CTRL_VQ, 4, 1).queue, Some(2));
        assert_eq!(Control::new(0, 1, 1).queue, None);
    }
}
