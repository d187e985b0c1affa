use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A device's traffic in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes.
    pub bytes: u64,
    /// Requests, or packets.
    pub operations: u64,
}

/// A slot's traffic since it was filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the guest: read from a disk, received from a network.
    pub incoming: Flow,
    /// From the guest.
    pub outgoing: Flow,
}

/// Counts a slot's traffic. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct TrafficCounter(Arc<[FlowCounter; 2]>);

#[derive(Debug, Default)]
struct FlowCounter {
    bytes: AtomicU64,
    operations: AtomicU64,
}

impl TrafficCounter {
    /// Counts one request or packet to the guest.
    pub fn incoming(&self, bytes: u64) {
        self.0[0].count(bytes);
    }

    /// Counts one from the guest.
    pub fn outgoing(&self, bytes: u64) {
        self.0[1].count(bytes);
    }

    /// Sets all counters to zero.
    pub fn reset(&self) {
        self.0.iter().for_each(FlowCounter::reset);
    }

    /// The current counts.
    pub fn traffic(&self) -> Traffic {
        Traffic { incoming: self.0[0].flow(), outgoing: self.0[1].flow() }
    }
}

impl FlowCounter {
    fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.operations.store(0, Ordering::Relaxed);
    }

    fn flow(&self) -> Flow {
        Flow {
            bytes: self.bytes.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
        }
    }
}
