//! The entropy device (virtio 1.2 §5.4), fed from the host's random number generator.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::DescriptorChain;
use vm_memory::Bytes;

use super::{Active, ConfigSpace, VirtioDevice};
use crate::memory::Memory;
use crate::{Error, Result};

const SOURCE: &str = "/dev/urandom";
/// Most random bytes of one request.
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
        active.answer_requests(|memory, chain| self.fill(memory, chain))
    }
}
