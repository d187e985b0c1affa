use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::{Error, Result};

const EVENTS_AT_ONCE: usize = 32;

/// The descriptors that a worker waits on, each identified by a token of the worker's choice.
pub struct Poll(Epoll);

/// A descriptor that became ready.
#[derive(Clone, Copy)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// The events that occurred.
    pub events: EventSet,
}

impl Poll {
    /// An empty set.
    pub fn new() -> Result<Self> {
        Epoll::new().map(Self).map_err(Error::io("create an epoll set"))
    }

    /// Waits on `fd` for `events`, level-triggered unless they say otherwise.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> Result<()> {
        self.control(ControlOperation::Add, fd, token, events)
    }

    /// Changes the events for which `fd` is waited on.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> Result<()> {
        self.control(ControlOperation::Modify, fd, token, events)
    }

    /// Stops waiting on `fd`.
    pub fn remove(&self, fd: &impl AsRawFd) -> Result<()> {
        self.control(ControlOperation::Delete, fd, 0, EventSet::empty())
    }

    /// Blocks until something is ready.
    pub fn wait(&self) -> Result<impl Iterator<Item = Ready>> {
        let mut events = [EpollEvent::default(); EVENTS_AT_ONCE];
        let count = loop {
            match self.0.wait(-1, &mut events) {
                Ok(count) => break count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Io { what: "wait for device events", source }),
            }
        };
        let ready = events.into_iter().take(count);
        Ok(ready.map(|event| Ready { token: event.data(), events: event.event_set() }))
    }

    fn control(&self, how: ControlOperation, fd: &impl AsRawFd, token: u64, events: EventSet) -> Result<()> {
        self.0
            .ctl(how, fd.as_raw_fd(), EpollEvent::new(events, token))
            .map_err(Error::io("change an epoll set"))
    }
}

/// Resets an event descriptor. Idempotent.
pub fn drain(event: &EventFd) {
    // "Would block" means that the event was consumed already.
    let _ = event.read();
}
