use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// `InterruptStatus` bit of a used buffer (virtio 1.2 §4.2.2).
const USED_BUFFER: u32 = 1;
/// `InterruptStatus` bit of a changed configuration.
const CONFIG_CHANGED: u32 = 2;

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
        self.raise(USED_BUFFER);
    }

    /// Says that the configuration space has changed.
    pub fn config(&self) {
        self.raise(CONFIG_CHANGED);
    }

    /// Sets the register to what it was; bits that the driver has not seen are told again.
    pub fn restore(&self, status: u32) {
        if status != 0 {
            self.raise(status);
        }
    }

    fn raise(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
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
