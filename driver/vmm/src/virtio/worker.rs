use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::EventFd;

use super::{Active, VirtioDevice};
use crate::threads::{Confinement, ThreadKind};
use crate::{Error, Result};

/// Failures of devices that are told: a guest can make one again and again, and must not fill the host's log.
const TELL_MAX: usize = 100;
static TOLD: AtomicUsize = AtomicUsize::new(0);

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
    /// Ends the thread and gives the device back, unless it panicked.
    pub fn stop(self) -> Option<Served> {
        if let Err(e) = self.stop.write(1) {
            tracing::error!("a device thread cannot be told to stop: {e}");
            return None;
        }
        self.thread.join().inspect_err(|_| tracing::error!("a device thread panicked")).ok()
    }
}

/// Starts workers. A driver makes its device active from a vCPU's thread, which may do less than a worker: so a thread
/// of their own starts them all.
#[derive(Clone, Default)]
pub struct Workers(Arc<OnceLock<mpsc::Sender<Order>>>);

struct Order {
    served: Served,
    answer: mpsc::Sender<Result<Worker>>,
}

impl Workers {
    /// Starts the thread; it ends with the last copy of `self`.
    pub fn begin(&self, confinement: Confinement) -> Result<()> {
        let (sender, orders) = mpsc::channel::<Order>();
        let body = move || {
            for Order { served, answer } in orders {
                // Whoever asked waits for the answer.
                let _ = answer.send(start(served, confinement));
            }
        };
        confinement.spawn(ThreadKind::Workers, "workers", body)?;
        self.0.set(sender).map_err(|_| Error::Config("the machine runs already".into()))
    }

    /// Starts serving a device.
    pub fn start(&self, served: Served) -> Result<Worker> {
        let lost = || Error::Config("no worker can be started".into());
        let (answer, answered) = mpsc::channel();
        self.0.get().ok_or_else(lost)?.send(Order { served, answer }).map_err(|_| lost())?;
        answered.recv().map_err(|_| lost())?
    }
}

fn start(mut served: Served, confinement: Confinement) -> Result<Worker> {
    let stop = served.active.stop.try_clone().map_err(Error::io("copy an event descriptor"))?;
    let device_type = served.device.device_type();
    let body = move || {
        if let Err(e) = served.device.serve(&mut served.active)
            && TOLD.fetch_add(1, Ordering::Relaxed) < TELL_MAX
        {
            tracing::error!(device_type, "a virtio device stopped: {e}");
        }
        served
    };
    let kind = ThreadKind::Device(device_type);
    let thread = confinement.spawn(kind, &format!("virtio{device_type}"), body)?;
    Ok(Worker { thread, stop })
}

#[cfg(test)]
impl Workers {
    /// Workers that are started already, under no rules.
    pub fn begun() -> Self {
        let workers = Self::default();
        workers.begin(Confinement::None).unwrap();
        workers
    }
}
