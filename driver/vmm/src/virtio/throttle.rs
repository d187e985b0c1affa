use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use super::rate::RateLimiter;
use super::timer::Timer;
use crate::Result;
use crate::config::RateLimit;

/// A device's rate limiter, with a timer that expires when a device that had to wait may continue.
pub struct Throttle {
    limiter: RateLimiter,
    timer: Timer,
}

impl Throttle {
    /// A throttle with full bursts and an unset timer.
    pub fn new(limit: RateLimit) -> Result<Self> {
        Ok(Self { limiter: RateLimiter::new(limit, Instant::now()), timer: Timer::new()? })
    }

    /// Whether another operation may begin; if not, the timer is set to when it may.
    pub fn is_open(&mut self) -> Result<bool> {
        match self.limiter.wait(Instant::now()) {
            None => Ok(true),
            Some(wait) => {
                self.timer.set(wait)?;
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
        self.timer.disarm()
    }
}

impl AsRawFd for Throttle {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}
