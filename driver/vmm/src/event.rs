use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{Error, Result};

/// Creates a non-blocking event descriptor.
pub fn event_fd() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK).map_err(Error::io("create an event descriptor"))
}
