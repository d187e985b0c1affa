//! The entropy device (virtio 1.2 §5.4), fed from the host's random number generator.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::DescriptorChain;
use vm_memory::Bytes;
use vmm_sys_util::epoll::EventSet;

use super::poll::{Poll, drain};
use super::{Active, ConfigSpace, VirtioDevice};
use crate::memory::Memory;
use crate::{Error, Result};

const SOURCE: &str = "/dev/urandom";
const QUEUE: u64 = 0;
const STOP: u64 = 1;
/// Most random bytes that one request gets.
const MAX_BYTES: usize = 4096;

/// An entropy source.
pub struct Rng {
    source: File,
}

impl Rng {
    /// Opens the host's generator.
    pub fn new() -> Result<Self> {
        let path = Path::new(SOURCE);
        let source = File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Ok(Self { source })
    }

    fn fill(&mut self, memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<u32> {
        let mut written = 0;
        let mut buffer = [0; MAX_BYTES];
        for descriptor in chain.writable() {
            let length = (descriptor.len() as usize).min(MAX_BYTES - written);
            self.source.read_exact(&mut buffer[..length]).map_err(Error::io("read random bytes"))?;
            memory.write_slice(&buffer[..length], descriptor.addr())?;
            written += length;
            if written == MAX_BYTES {
                break;
            }
        }
        Ok(written as u32)
    }

    fn serve_queue(&mut self, active: &mut Active) -> Result<()> {
        let memory = active.memory.clone();
        while let Some(chain) = active.pop(0, &memory)? {
            let head = chain.head_index();
            let written = self.fill(&memory, chain).unwrap_or_else(|e| {
                tracing::debug!("a request for entropy failed: {e}");
                0
            });
            active.give_back(0, head, written)?;
        }
        active.notify_driver(0)
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(&[])
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        let poll = Poll::new()?;
        poll.add(&active.notifications[0], QUEUE, EventSet::IN)?;
        poll.add(&active.stop, STOP, EventSet::IN)?;
        loop {
            for ready in poll.wait()? {
                if ready.token == STOP {
                    return Ok(());
                }
                drain(&active.notifications[0]);
                self.serve_queue(active)?;
            }
        }
    }
}
