use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// `InterruptStatus` bit of a used buffer (virtio 1.2 §4.2.2).
const USED_BUFFER: u32 = 1;

/// A device's interrupt line with its status register, shared by transport and worker.
#[derive(Clone)]
pub struct Interrupt {
    status: Arc<AtomicU32>,
    line: Arc<EventFd>,
}

impl Interrupt {
    /// An interrupt on `line`, an irqfd.
    pub fn new(line: EventFd) -> Self {
        Self { status: Arc::default(), line: Arc::new(line) }
    }

    /// Says that buffers were used.
    pub fn queue(&self) {
        self.status.fetch_or(USED_BUFFER, Ordering::SeqCst);
        if let Err(e) = self.line.write(1) {
            tracing::warn!("an interrupt cannot be raised: {e}");
        }
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// Clears the bits that the driver has seen.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Clears the register, as a reset of the device does.
    pub fn reset(&self) {
        self.acknowledge(u32::MAX);
    }
}
