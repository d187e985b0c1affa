use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use super::{Active, Stop, VirtioDevice};
use crate::threads::{Confinement, ThreadKind};
use crate::{Error, Result};

/// Most device failures that are logged: a guest can cause them without end, and must not fill the host's log.
const LOGGED_MAX: usize = 100;
static LOGGED: AtomicUsize = AtomicUsize::new(0);

/// A device with the resources of its active driver.
pub struct Served<D> {
    /// The device.
    pub device: D,
    /// Its queues, memory and interrupt.
    pub active: Active,
}

/// A thread that serves an active device.
pub struct Worker<D> {
    thread: JoinHandle<Served<D>>,
    stop: Stop,
}

impl<D> Worker<D> {
    /// Ends the thread and returns the device, unless the thread panicked.
    pub fn stop(self) -> Option<Served<D>> {
        if let Err(e) = self.stop.order() {
            tracing::error!(error = %e, "a device thread cannot be told to stop");
            return None;
        }
        self.thread.join().inspect_err(|_| tracing::error!("a device thread panicked")).ok()
    }
}

/// Starts workers. A driver activates its device from a vCPU's thread, whose seccomp filter is stricter than a
/// worker's and would be inherited: a separate thread therefore starts all workers.
#[derive(Clone, Default)]
pub struct Workers(Arc<OnceLock<mpsc::Sender<Order>>>);

/// Starts one worker.
type Order = Box<dyn FnOnce(Confinement) + Send>;

impl Workers {
    /// Starts the thread; it ends with the last copy of `self`.
    pub fn begin(&self, confinement: Confinement) -> Result<()> {
        let (sender, orders) = mpsc::channel::<Order>();
        let body = move || orders.into_iter().for_each(|order| order(confinement));
        confinement.spawn(ThreadKind::Workers, "workers", body)?;
        self.0.set(sender).map_err(|_| Error::Config("the machine runs already".into()))
    }

    /// Starts serving a device.
    pub fn start<D: VirtioDevice>(&self, served: Served<D>) -> Result<Worker<D>> {
        let lost = || Error::Config("no worker can be started".into());
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |confinement| {
            // The caller waits for the answer, so that sending it cannot fail.
            let _ = answer.send(start(served, confinement));
        });
        self.0.get().ok_or_else(lost)?.send(order).map_err(|_| lost())?;
        answered.recv().map_err(|_| lost())?
    }
}

fn start<D: VirtioDevice>(mut served: Served<D>, confinement: Confinement) -> Result<Worker<D>> {
    let stop = served.active.stop.try_clone()?;
    let device_type = served.device.device_type();
    let body = move || {
        if let Err(e) = served.device.serve(&mut served.active)
            && LOGGED.fetch_add(1, Ordering::Relaxed) < LOGGED_MAX
        {
            tracing::error!(device_type, error = %e, "a virtio device stopped");
        }
        served
    };
    let kind = ThreadKind::Device(device_type);
    let thread = confinement.spawn(kind, &format!("virtio{device_type}"), body)?;
    Ok(Worker { thread, stop })
}

#[cfg(test)]
impl Workers {
    /// Workers without a filter, whose thread is started.
    pub fn begun() -> Self {
        let workers = Self::default();
        workers.begin(Confinement::None).unwrap();
        workers
    }
}
