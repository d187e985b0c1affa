use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::errno;
use vmm_sys_util::timerfd::TimerFd;

use crate::{Error, Result};

/// A timer that a worker waits on beside its queues.
pub struct Timer(TimerFd);

impl Timer {
    /// A timer that is not set.
    pub fn new() -> Result<Self> {
        TimerFd::new().map(Self).map_err(failed("create a timer"))
    }

    /// Lets it expire once, after `wait`.
    pub fn set(&mut self, wait: Duration) -> Result<()> {
        self.0.reset(wait, None).map_err(failed("set a timer"))
    }

    /// Keeps it from expiring, and forgets that it has.
    pub fn disarm(&mut self) -> Result<()> {
        self.0.clear().map_err(failed("clear a timer"))
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn failed(what: &'static str) -> impl FnOnce(errno::Error) -> Error {
    move |error| Error::Io { what, source: error.into() }
}
