use virtio_queue::DescriptorChain;
use vmm_sys_util::epoll::EventSet;

use super::Active;
use super::poll::{Poll, drain};
use crate::Result;
use crate::memory::Memory;

const QUEUE: u64 = 0;
const STOP: u64 = 1;

impl Active {
    /// Serves a device with one queue, whose chains are requests that are answered at once, until `stop` is ordered.
    /// `answer` returns the number of bytes that it wrote; a request for which it fails is returned unanswered.
    pub fn answer_requests(
        &mut self,
        mut answer: impl FnMut(&Memory, DescriptorChain<&Memory>) -> Result<u32>,
    ) -> Result<()> {
        let poll = Poll::new()?;
        poll.add(&self.notifications[0], QUEUE, EventSet::IN)?;
        poll.add(&self.stop, STOP, EventSet::IN)?;
        let memory = self.memory.clone();
        loop {
            for ready in poll.wait()? {
                if ready.token == STOP {
                    return Ok(());
                }
                drain(&self.notifications[0]);
                while let Some(chain) = self.pop(0, &memory)? {
                    let head = chain.head_index();
                    let written = answer(&memory, chain).unwrap_or_else(|e| {
                        // Debug only: a guest can cause this without end, and must not fill the host's log.
                        tracing::debug!(error = %e, "a device's request failed");
                        0
                    });
                    self.give_back(0, head, written)?;
                }
                self.notify_driver(0)?;
            }
        }
    }
}
