use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::EventFd;

use super::{Active, VirtioDevice};
use crate::{Error, Result};

/// A device that is served, with what it is served with.
pub struct Served {
    /// The device.
    pub device: Box<dyn VirtioDevice>,
    /// Its queues, and the rest.
    pub active: Active,
}

/// A thread that serves an active device.
pub struct Worker {
    thread: JoinHandle<Served>,
    stop: EventFd,
}

impl Worker {
    /// Starts serving `device`.
    pub fn start(device: Box<dyn VirtioDevice>, active: Active) -> Result<Self> {
        let stop = active.stop.try_clone().map_err(Error::io("copy an event descriptor"))?;
        let device_type = device.device_type();
        let mut served = Served { device, active };
        let thread = thread::Builder::new()
            .name(format!("virtio{device_type}"))
            .spawn(move || {
                if let Err(e) = served.device.serve(&mut served.active) {
                    tracing::error!(device_type, "a virtio device stopped: {e}");
                }
                served
            })
            .map_err(Error::io("start a device thread"))?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread and gives the device back, unless it panicked.
    pub fn stop(self) -> Option<Served> {
        if let Err(e) = self.stop.write(1) {
            tracing::error!("a device thread cannot be told to stop: {e}");
            return None;
        }
        self.thread.join().inspect_err(|_| tracing::error!("a device thread panicked")).ok()
    }
}
