use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::event::event_fd;
use crate::{Error, Result};

/// Tells a worker to end. A worker that waits finds its descriptor readable; one that is at work sees the
/// flag before each buffer that it takes: a driver that fills a queue as fast as it is emptied must not keep it.
#[derive(Debug)]
pub struct Stop {
    event: EventFd,
    is_ordered: Arc<AtomicBool>,
}

impl Stop {
    /// An order that is not given yet.
    pub fn new() -> Result<Self> {
        Ok(Self { event: event_fd()?, is_ordered: Arc::default() })
    }

    /// Another handle of the same order.
    pub fn try_clone(&self) -> Result<Self> {
        let event = self.event.try_clone().map_err(Error::io("copy an event descriptor"))?;
        Ok(Self { event, is_ordered: Arc::clone(&self.is_ordered) })
    }

    /// Gives the order.
    pub fn order(&self) -> io::Result<()> {
        self.is_ordered.store(true, Ordering::SeqCst);
        self.event.write(1)
    }

    /// Whether it was given.
    pub fn is_ordered(&self) -> bool {
        self.is_ordered.load(Ordering::SeqCst)
    }
}

impl AsRawFd for Stop {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}
