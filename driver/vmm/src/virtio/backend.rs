use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::worker::{Served, Worker, Workers};
use super::{Active, Interrupt, Stop, VirtioDevice};
use crate::event::event_fd;
use crate::memory::Memory;
use crate::{Error, Result};

/// A device with its queues: at rest, or served by its worker.
pub struct Backend<D> {
    memory: Memory,
    interrupt: Interrupt,
    notifications: Vec<EventFd>,
    queue_sizes: &'static [u16],
    workers: Workers,
    owner: Owner<D>,
}

enum Owner<D> {
    Rest(D, Vec<Queue>),
    Worker(Worker<D>),
    /// Final: the worker panicked, or the device was closed.
    Gone,
}

impl<D: VirtioDevice> Backend<D> {
    /// A device at rest, its queues not set up. `workers` will serve it.
    pub fn new(device: D, memory: Memory, interrupt: Interrupt, workers: Workers) -> Result<Self> {
        let queue_sizes = device.queue_sizes();
        Ok(Self {
            memory,
            interrupt,
            notifications: queue_sizes.iter().map(|_| event_fd()).collect::<Result<_>>()?,
            queue_sizes,
            workers,
            owner: Owner::Rest(device, new_queues(queue_sizes)?),
        })
    }

    /// Signalled when the driver has put buffers into a queue, one for each queue.
    pub fn notifications(&self) -> &[EventFd] {
        &self.notifications
    }

    /// Largest size of each queue.
    pub fn queue_sizes(&self) -> &'static [u16] {
        self.queue_sizes
    }

    /// The queues, while no worker has them.
    pub fn queues(&mut self) -> Option<&mut Vec<Queue>> {
        match &mut self.owner {
            Owner::Rest(_, queues) => Some(queues),
            Owner::Worker(_) | Owner::Gone => None,
        }
    }

    /// Whether queue `index` is ready; false while a worker has it.
    pub fn is_queue_ready(&self, index: usize) -> bool {
        match &self.owner {
            Owner::Rest(_, queues) => queues.get(index).is_some_and(QueueT::ready),
            Owner::Worker(_) | Owner::Gone => false,
        }
    }

    /// Checks the queues that the driver has set up.
    pub fn check_queues(&mut self, event_idx: bool) -> Result<()> {
        let memory = self.memory.clone();
        for queue in self.queues().ok_or_else(gone)? {
            queue.set_event_idx(event_idx);
            if queue.ready() && !queue.is_valid(&memory) {
                return Err(Error::Config("a queue lies outside guest memory".into()));
            }
        }
        Ok(())
    }

    /// Starts a worker for the device, if it is present.
    pub fn start(&mut self, features: u64) -> Result<()> {
        // Fallible steps come first: an error must not drop the device.
        let copies = self.notifications.iter().map(EventFd::try_clone);
        let notifications =
            copies.collect::<std::io::Result<_>>().map_err(Error::io("copy a notification"))?;
        let stop = Stop::new()?;
        let (device, queues) = match std::mem::replace(&mut self.owner, Owner::Gone) {
            Owner::Rest(device, queues) if device.is_present() => (device, queues),
            Owner::Gone => return Err(gone()),
            other => {
                self.owner = other;
                return Ok(());
            }
        };
        let (memory, interrupt) = (self.memory.clone(), self.interrupt.clone());
        let active = Active { memory, queues, notifications, interrupt, features, stop };
        // The worker looks at every queue at once: the driver may have filled them meanwhile. A full counter, the only
        // failure, has the same effect.
        for event in &active.notifications {
            let _ = event.write(1);
        }
        self.owner = Owner::Worker(self.workers.start(Served { device, active })?);
        Ok(())
    }

    /// Ends the worker, if there is one; the queues stay as they are.
    pub fn stop(&mut self) {
        self.owner = match std::mem::replace(&mut self.owner, Owner::Gone) {
            Owner::Worker(worker) => match worker.stop() {
                Some(Served { device, active }) => Owner::Rest(device, active.queues),
                None => Owner::Gone,
            },
            rest => rest,
        };
    }

    /// Ends the worker and drops the device.
    pub fn close(&mut self) {
        self.stop();
        self.owner = Owner::Gone;
    }

    /// Ends the worker and replaces the queues with unused ones.
    pub fn reset(&mut self) -> Result<()> {
        self.stop();
        let unused = new_queues(self.queue_sizes)?;
        *self.queues().ok_or_else(gone)? = unused;
        self.device()?.set_queue_pairs(1)
    }

    /// The device, while no worker has it.
    pub fn device(&mut self) -> Result<&mut D> {
        match &mut self.owner {
            Owner::Rest(device, _) => Ok(device),
            Owner::Worker(_) | Owner::Gone => Err(gone()),
        }
    }
}

fn new_queues(sizes: &[u16]) -> Result<Vec<Queue>> {
    let queues = sizes.iter().map(|size| Queue::new(*size));
    queues.collect::<std::result::Result<_, _>>().map_err(|e| Error::Config(e.to_string()))
}

fn gone() -> Error {
    Error::Config("the device is gone: its thread panicked, or its machine has ended".into())
}
