use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
    is_lent: Arc<AtomicBool>,
}

/// A device's line while the host's kernel raises it without setting the status register. Until it is dropped, the
/// register always reads as if buffers were used.
pub struct LentLine {
    line: Arc<EventFd>,
    is_lent: Arc<AtomicBool>,
}

impl LentLine {
    /// The line's irqfd.
    pub fn event(&self) -> &EventFd {
        &self.line
    }
}

impl Drop for LentLine {
    fn drop(&mut self) {
        self.is_lent.store(false, Ordering::SeqCst);
    }
}

impl Interrupt {
    /// An interrupt on `line`, an irqfd. Devices that share a line share its irqfd. With an irqfd each, two devices that fire at
    /// once could raise the line only once, and the guest would miss one. Events of a single irqfd are raised and lowered one
    /// after another.
    pub fn new(line: Arc<EventFd>) -> Self {
        Self { status: Arc::default(), line, is_lent: Arc::default() }
    }

    /// Lends the line.
    pub fn lend(&self) -> LentLine {
        self.is_lent.store(true, Ordering::SeqCst);
        LentLine { line: Arc::clone(&self.line), is_lent: Arc::clone(&self.is_lent) }
    }

    /// Interrupts for used buffers.
    pub fn queue(&self) {
        self.raise(USED_BUFFER);
    }

    /// Interrupts for a changed configuration space.
    pub fn config(&self) {
        self.raise(CONFIG_CHANGED);
    }

    /// Restores the status register, and interrupts again for bits that the driver has not acknowledged.
    pub fn restore(&self, status: u32) {
        if status != 0 {
            self.raise(status);
        }
    }

    fn raise(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
        if let Err(e) = self.line.write(1) {
            tracing::warn!(error = %e, "an interrupt cannot be raised");
        }
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        let lent = if self.is_lent.load(Ordering::SeqCst) { USED_BUFFER } else { 0 };
        self.status.load(Ordering::SeqCst) | lent
    }

    /// Clears the bits that the driver acknowledges.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Clears the register, as a reset of the device does.
    pub fn reset(&self) {
        self.acknowledge(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::event_fd;

    #[test]
    fn a_line_that_is_lent_tells_of_used_buffers() {
        let interrupt = Interrupt::new(event_fd().unwrap().into());
        let line = interrupt.lend();
        line.event().write(1).unwrap();
        interrupt.acknowledge(USED_BUFFER);
        assert_eq!(interrupt.status(), USED_BUFFER);
        interrupt.config();
        assert_eq!(interrupt.status(), USED_BUFFER | CONFIG_CHANGED);
        drop(line);
        interrupt.acknowledge(CONFIG_CHANGED);
        assert_eq!(interrupt.status(), 0);
    }
}
