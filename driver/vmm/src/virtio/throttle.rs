use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use vmm_sys_util::errno;
use vmm_sys_util::timerfd::TimerFd;

use super::rate::RateLimiter;
use crate::config::RateLimit;
use crate::{Error, Result};

/// A device's rate limiter, with a timer that expires when a device that had to wait may continue.
pub struct Throttle {
    limiter: RateLimiter,
    timer: TimerFd,
}

impl Throttle {
    /// A throttle with full bursts and an unset timer.
    pub fn new(limit: RateLimit) -> Result<Self> {
        let timer = TimerFd::new().map_err(failed("create a timer"))?;
        Ok(Self { limiter: RateLimiter::new(limit, Instant::now()), timer })
    }

    /// Whether another operation may begin; if not, the timer is set to when it may.
    pub fn is_open(&mut self) -> Result<bool> {
        match self.limiter.wait(Instant::now()) {
            None => Ok(true),
            Some(wait) => {
                self.timer.reset(wait, None).map_err(failed("set a timer"))?;
                Ok(false)
            }
        }
    }

    /// Counts an operation that moves `bytes`.
    pub fn count(&mut self, bytes: u64) {
        self.limiter.count(bytes);
    }

    /// Clears the timer's expiration.
    pub fn drain(&mut self) -> Result<()> {
        self.timer.clear().map_err(failed("clear a timer"))
    }
}

impl AsRawFd for Throttle {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

fn failed(what: &'static str) -> impl FnOnce(errno::Error) -> Error {
    move |error| Error::Io { what, source: error.into() }
}
