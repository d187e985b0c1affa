//! The memory device (virtio 1.2 §5.15), by which memory is added and removed while the guest runs.

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;
use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::{ByteValued, GuestAddress, Le16, Le64};

use super::{Active, ConfigSpace, VirtioDevice};
use crate::memory::{Growth, Memory, discard};
use crate::{Error, Result};

/// Unit in which memory is added and removed, in bytes: a huge page.
pub const BLOCK: u64 = 2 << 20;

/// Offsets in the configuration space (virtio 1.2 §5.15.4).
const BLOCK_SIZE: usize = 0;
const ADDRESS: usize = 16;
const REGION_SIZE: usize = 24;
const USABLE_SIZE: usize = 32;
const PLUGGED_SIZE: usize = 40;
const REQUESTED_SIZE: usize = 48;
const CONFIG_SIZE: usize = 56;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u16 = 0;
const NACK: u16 = 1;
const ERROR: u16 = 3;

const STATE_PLUGGED: u16 = 0;
const STATE_UNPLUGGED: u16 = 1;
const STATE_MIXED: u16 = 2;

/// A request of the driver (virtio 1.2 §5.15.6).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Request {
    kind: Le16,
    padding: [u16; 3],
    address: Le64,
    blocks: Le16,
    more_padding: [u16; 3],
}

// SAFETY: the structure is of plain numbers, without padding that the compiler adds, and any bytes are a value of it.
unsafe impl ByteValued for Request {}

/// The device's answer.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Answer {
    kind: Le16,
    padding: [u16; 3],
    state: Le16,
}

// SAFETY: the structure is of plain numbers, without padding that the compiler adds, and any bytes are a value of it.
unsafe impl ByteValued for Answer {}

/// The amounts of memory beyond the initial memory that the guest was asked to have, and has.
#[derive(Debug, Clone)]
pub struct MemGauge {
    config: ConfigSpace,
}

impl MemGauge {
    /// Requests `bytes` beyond the initial memory, rounded up to whole blocks. The driver must then be notified.
    pub fn request(&self, bytes: u64) -> Result<()> {
        let most = self.config.get(REGION_SIZE);
        let blocks = bytes.checked_next_multiple_of(BLOCK).filter(|bytes| *bytes <= most);
        let wanted = blocks.ok_or_else(|| {
            Error::Config(format!("{bytes} bytes of memory to come, the machine has room for {most}"))
        })?;
        self.config.set(REQUESTED_SIZE, wanted);
        Ok(())
    }

    /// Requested bytes.
    pub fn requested(&self) -> u64 {
        self.config.get(REQUESTED_SIZE)
    }

    /// Bytes in use by the guest.
    pub fn plugged(&self) -> u64 {
        self.config.get(PLUGGED_SIZE)
    }
}

/// The memory device.
pub struct Mem {
    growth: Growth,
    config: ConfigSpace,
    /// For each block, whether the guest has it.
    plugged: Vec<bool>,
}

impl Mem {
    /// A device for the memory of `growth`, none of it plugged.
    pub fn new(growth: Growth) -> Self {
        let config = ConfigSpace::new(&[0; CONFIG_SIZE]);
        let fields = [
            (BLOCK_SIZE, BLOCK),
            (ADDRESS, growth.start),
            (REGION_SIZE, growth.size),
            (USABLE_SIZE, growth.size),
        ];
        fields.into_iter().for_each(|(offset, value)| config.set(offset, value));
        let blocks = usize::try_from(growth.size / BLOCK).unwrap_or(0);
        Self { growth, config, plugged: vec![false; blocks] }
    }

    /// Reads and changes the amounts of memory.
    pub fn gauge(&self) -> MemGauge {
        MemGauge { config: self.config.clone() }
    }

    fn answer(&mut self, memory: &Memory, request: Request) -> (u16, u16) {
        let kind = u16::from(request.kind);
        if kind == UNPLUG_ALL {
            return (self.unplug_all(memory), 0);
        }
        let Some(range) = self.range(request) else { return (ERROR, 0) };
        match kind {
            PLUG => (self.plug(range), 0),
            UNPLUG => (self.unplug(memory, range), 0),
            STATE => (ACK, self.state(range)),
            _ => (ERROR, 0),
        }
    }

    /// The blocks that a request names; `None` unless all exist.
    fn range(&self, request: Request) -> Option<std::ops::Range<usize>> {
        let (address, count) = (u64::from(request.address), usize::from(u16::from(request.blocks)));
        let offset = address.checked_sub(self.growth.start).filter(|offset| offset.is_multiple_of(BLOCK))?;
        let first = usize::try_from(offset / BLOCK).ok()?;
        let end = first.checked_add(count)?;
        (count > 0 && end <= self.plugged.len()).then_some(first..end)
    }

    fn plug(&mut self, range: std::ops::Range<usize>) -> u16 {
        let more = range.len() as u64 * BLOCK;
        if self.plugged[range.clone()].contains(&true) {
            return ERROR;
        }
        if self.plugged_size() + more > self.config.get(REQUESTED_SIZE) {
            return NACK;
        }
        self.mark(range, true);
        ACK
    }

    fn unplug(&mut self, memory: &Memory, range: std::ops::Range<usize>) -> u16 {
        if self.plugged[range.clone()].contains(&false) {
            return ERROR;
        }
        let start = self.growth.start + range.start as u64 * BLOCK;
        if let Err(e) = discard(memory, GuestAddress(start), range.len() as u64 * BLOCK) {
            tracing::warn!(error = %e, "memory that the guest gave back stays taken");
        }
        self.mark(range, false);
        ACK
    }

    fn unplug_all(&mut self, memory: &Memory) -> u16 {
        if let Err(e) = discard(memory, GuestAddress(self.growth.start), self.growth.size) {
            tracing::warn!(error = %e, "memory that the guest gave back stays taken");
        }
        self.mark(0..self.plugged.len(), false);
        ACK
    }

    fn state(&self, range: std::ops::Range<usize>) -> u16 {
        match (self.plugged[range.clone()].contains(&true), self.plugged[range].contains(&false)) {
            (true, false) => STATE_PLUGGED,
            (false, _) => STATE_UNPLUGGED,
            (true, true) => STATE_MIXED,
        }
    }

    fn mark(&mut self, range: std::ops::Range<usize>, plugged: bool) {
        self.plugged[range].fill(plugged);
        self.config.set(PLUGGED_SIZE, self.plugged_size());
    }

    fn plugged_size(&self) -> u64 {
        self.plugged.iter().filter(|plugged| **plugged).count() as u64 * BLOCK
    }

    fn serve_chain(&mut self, memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<u32> {
        let malformed = |e: virtio_queue::Error| Error::Config(e.to_string());
        let mut reader: Reader<'_> = chain.clone().reader(memory).map_err(malformed)?;
        let mut writer: Writer<'_> = chain.writer(memory).map_err(malformed)?;
        let request = reader.read_obj().map_err(Error::io("read a request for memory"))?;
        let (kind, state) = self.answer(memory, request);
        let answer = Answer { kind: kind.into(), state: state.into(), ..Answer::default() };
        writer.write_obj(answer).map_err(Error::io("answer a request for memory"))?;
        Ok(size_of::<Answer>() as u32)
    }
}

impl VirtioDevice for Mem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config_space(&self) -> ConfigSpace {
        self.config.clone()
    }

    fn serve(&mut self, active: &mut Active) -> Result<()> {
        active.answer_requests(|memory, chain| self.serve_chain(memory, chain))
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::memory::{Content, GuestRam};

    const START: u64 = 4 << 30;

    fn request(kind: u16, address: u64, blocks: u16) -> Request {
        Request { kind: kind.into(), address: address.into(), blocks: blocks.into(), ..Request::default() }
    }

    #[test]
    fn memory_comes_as_asked_for_and_is_gone_when_given_back() {
        let growth = Growth::between(64, 192).unwrap();
        let ram = GuestRam::map(64, Some(growth), Content::Zeros).unwrap();
        let memory = ram.memory();
        let mut device = Mem::new(growth);
        let gauge = device.gauge();
        let mut ask = |kind, address, blocks| device.answer(memory, request(kind, address, blocks));

        assert_eq!(ask(PLUG, START, 1), (NACK, 0), "nothing was asked for");
        gauge.request(2 * BLOCK).unwrap();
        assert_eq!(ask(PLUG, START, 3), (NACK, 0), "more than was asked for");
        assert_eq!(ask(PLUG, START, 2), (ACK, 0));
        assert_eq!(ask(PLUG, START + BLOCK, 1), (ERROR, 0), "it has that already");
        assert_eq!(gauge.plugged(), 2 * BLOCK);
        assert_eq!(ask(STATE, START, 2), (ACK, STATE_PLUGGED));
        assert_eq!(ask(STATE, START + BLOCK, 2), (ACK, STATE_MIXED));

        memory.write_obj(7u8, GuestAddress(START)).unwrap();
        assert_eq!(ask(UNPLUG, START, 1), (ACK, 0));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(START)).unwrap(), 0);
        assert_eq!(ask(UNPLUG, START, 1), (ERROR, 0));
        assert_eq!(ask(STATE, START, 1), (ACK, STATE_UNPLUGGED));
        assert_eq!(ask(UNPLUG_ALL, 0, 0), (ACK, 0));
        assert_eq!(gauge.plugged(), 0);
    }

    #[test]
    fn nonsense_is_refused() {
        let growth = Growth::between(64, 192).unwrap();
        let ram = GuestRam::map(64, Some(growth), Content::Zeros).unwrap();
        let mut device = Mem::new(growth);
        device.gauge().request(growth.size).unwrap();
        assert!(device.gauge().request(growth.size + 1).is_err());
        let end = START + growth.size;
        for (kind, address, blocks) in [
            (PLUG, START + 1, 1),
            (PLUG, 0, 1),
            (PLUG, end, 1),
            (PLUG, end - BLOCK, 2),
            (PLUG, u64::MAX, u16::MAX),
            (PLUG, START, 0),
            (9, START, 1),
        ] {
            let answer = device.answer(ram.memory(), request(kind, address, blocks));
            assert_eq!(answer, (ERROR, 0), "{kind} {address:#x} {blocks}");
        }
        assert_eq!(device.gauge().plugged(), 0);
    }
}
