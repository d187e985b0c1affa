use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::request::{Operation, Request};
use crate::Result;
use crate::virtio::timer::Timer;

/// Before stalled requests are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Requests for which the host's file system has no room now. Whoever has filled it, another guest's disk must not fail of it: its
/// driver waits, as for a slow disk, until there is room.
pub struct Stalled {
    requests: Vec<Request>,
    timer: Timer,
}

impl Stalled {
    /// None, and an unset timer.
    pub fn new() -> Result<Self> {
        Ok(Self { requests: Vec::new(), timer: Timer::new()? })
    }

    /// Whether a request with this result found no room. One of which a part was written is to be done again, too.
    pub fn has_no_room(operation: Operation, result: i32, expected: u64) -> bool {
        let is_cut_short = u64::try_from(result).is_ok_and(|done| 0 < done && done < expected);
        let is_full = [-libc::ENOSPC, -libc::EDQUOT].contains(&result);
        match operation {
            Operation::Write(_) => is_full || is_cut_short,
            Operation::Zero(_) => is_full,
            _ => false,
        }
    }

    /// Adds one, to be tried again after a while.
    pub fn push(&mut self, request: Request) -> Result<()> {
        if self.requests.is_empty() {
            tracing::warn!("the host has no room for what a disk is to keep: its driver waits");
            self.timer.set(PAUSE)?;
        }
        self.requests.push(request);
        Ok(())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Takes all, once the timer has expired.
    pub fn take(&mut self) -> Result<Vec<Request>> {
        self.timer.clear()?;
        Ok(std::mem::take(&mut self.requests))
    }
}

impl AsRawFd for Stalled {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}
