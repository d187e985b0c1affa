use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::patience::Patience;
use super::request::{Operation, Request};
use crate::Result;
use crate::virtio::timer::Timer;

/// Between two tries; and, once one has found room, until the next.
const PAUSE: Duration = Duration::from_secs(1);
const NEXT: Duration = Duration::from_millis(1);
/// Between two lines that there is no room.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Requests for which the host's file system had no room. The disk of one guest must not fail because others have filled the
/// host's: the driver waits, as for a slow disk, and the requests are done again, one at a time.
pub struct Stalled {
    requests: VecDeque<Request>,
    timer: Timer,
    patience: Patience,
    /// When the first of them found no room.
    since: Option<Instant>,
    told: Option<Instant>,
    is_due: bool,
}

/// Whether the host's file system had no room for any of a request.
pub fn had_no_room(operation: Operation, result: i32) -> bool {
    let is_full = [-libc::ENOSPC, -libc::EDQUOT].contains(&result);
    is_full && matches!(operation, Operation::Write(_) | Operation::Zero(_))
}

impl Stalled {
    /// None, and a timer that is not set.
    pub fn new(patience: Patience) -> Result<Self> {
        Ok(Self {
            requests: VecDeque::new(),
            timer: Timer::new()?,
            patience,
            since: None,
            told: None,
            is_due: false,
        })
    }

    /// Adds one that has found no room, to be done again after a while.
    pub fn push(&mut self, request: Request) -> Result<()> {
        self.note();
        if self.requests.is_empty() {
            self.timer.set(PAUSE)?;
        }
        self.requests.push_back(request);
        Ok(())
    }

    /// Adds one that has found no room again: others have their turn, for which there may be room.
    pub fn push_again(&mut self, request: Request) -> Result<()> {
        self.requests.push_back(request);
        self.timer.set(PAUSE)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Takes the first. The timer is set as long as any are left.
    pub fn pop(&mut self) -> Result<Option<Request>> {
        self.is_due = false;
        let first = self.requests.pop_front();
        match self.requests.is_empty() {
            true => self.timer.disarm()?,
            false => self.timer.set(PAUSE)?,
        }
        Ok(first)
    }

    /// Notes that the disk's rate allows none now: the next one that it allows is one of these.
    pub fn wait(&mut self) -> Result<()> {
        self.is_due = true;
        self.timer.set(PAUSE)
    }

    /// Whether one of them comes before what is in the queue.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// Notes that one which was done again has found room: so may the others.
    pub fn has_room(&mut self) -> Result<()> {
        if !self.requests.is_empty() {
            return self.timer.set(NEXT);
        }
        if let Some(since) = self.since.take() {
            tracing::debug!(seconds = since.elapsed().as_secs(), "a disk's writes have room again");
        }
        Ok(())
    }

    /// Takes all.
    pub fn take_all(&mut self) -> Result<Vec<Request>> {
        self.is_due = false;
        self.timer.disarm()?;
        Ok(self.requests.drain(..).collect())
    }

    /// Whether they are to fail.
    pub fn patience_is_over(&self) -> bool {
        self.patience.is_over()
    }

    fn note(&mut self) {
        self.since.get_or_insert_with(Instant::now);
        if self.told.is_none_or(|told| told.elapsed() > TOLD_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!("the host's file system has no room for a disk's writes: its driver waits");
        }
    }
}

impl AsRawFd for Stalled {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Extent;
    use super::*;

    #[test]
    fn only_what_takes_room_waits_for_it() {
        let extent = Extent { offset: 0, length: 4096 };
        let (write, zero) = (Operation::Write(0), Operation::Zero(extent));
        for (operation, result, waits) in [
            (write, -libc::ENOSPC, true),
            (write, -libc::EDQUOT, true),
            (write, 0, false),
            (write, 512, false),
            (write, -libc::EIO, false),
            (write, -libc::EFBIG, false),
            (zero, -libc::ENOSPC, true),
            (zero, -libc::EOPNOTSUPP, false),
            (Operation::Read(0), -libc::ENOSPC, false),
            (Operation::Release(extent), -libc::ENOSPC, false),
            (Operation::Flush, -libc::ENOSPC, false),
        ] {
            assert_eq!(had_no_room(operation, result), waits, "{operation:?}, {result}");
        }
    }
}
