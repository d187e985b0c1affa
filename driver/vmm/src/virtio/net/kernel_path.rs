//! Interfaces whose packets the host's kernel moves: each of the guest's queue pairs has a queue of the tap.

use std::fs::File;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::check;
use super::control::Control;
use super::vhost::Vhost;
use crate::Result;
use crate::virtio::poll::{Poll, drain};
use crate::virtio::{Active, LentLine};

ioctl_iow_nr!(TUNSETQUEUE, 0x54, 217, libc::c_int);

const TOKEN_STOP: u64 = 0;
const TOKEN_CONTROL: u64 = 1;

/// A tap queue and the vhost device that serve a queue pair.
pub struct KernelQueue {
    tap: File,
    vhost: Vhost,
    /// Whether the tap delivers packets to this queue.
    is_attached: bool,
}

impl KernelQueue {
    /// A new tap queue, and an open `/dev/vhost-net`.
    pub fn new(tap: File, vhost: Vhost) -> Self {
        Self { tap, vhost, is_attached: true }
    }

    /// The tap queue.
    pub fn tap(&self) -> &File {
        &self.tap
    }

    /// The tap queue; the vhost device is closed.
    pub fn into_tap(self) -> File {
        self.tap
    }

    /// See [`Vhost::prepare`].
    pub fn prepare(&mut self, active: &Active) -> Result<bool> {
        self.vhost.prepare(&active.memory, active.features)
    }

    /// A tap spreads packets over its attached queues, so a queue that is not served must be detached.
    fn set_attached(&mut self, attached: bool) -> Result<()> {
        if self.is_attached != attached {
            let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
            // SAFETY: all zeros is a valid `ifreq`.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            // SAFETY: the argument points to a structure that lives through the call, which reads it.
            let status = unsafe { ioctl_with_ref(&self.tap, TUNSETQUEUE(), &request) };
            check(status, "attach or detach a tap's queue")?;
            self.is_attached = attached;
        }
        Ok(())
    }
}

/// Makes the kernel serve the prepared `queues` that the driver uses, until `active.stop` is ordered. An empty slot
/// has no queues and only answers its control queue.
pub fn serve(queues: &mut [KernelQueue], active: &mut Active, control: &mut Control) -> Result<()> {
    let line = active.interrupt.lend();
    let mut path = KernelPath { queues, line, serving: 0 };
    let served = path.serve(active, control);
    let stopped = path.stop(active);
    drop(path);
    // The kernel may have used buffers just before it stopped, and the returned line no longer shows that.
    active.interrupt.queue();
    served.and(stopped)
}

struct KernelPath<'a> {
    queues: &'a mut [KernelQueue],
    line: LentLine,
    /// Number of queues that the kernel serves.
    serving: usize,
}

impl KernelPath<'_> {
    fn use_pairs(&mut self, active: &mut Active, pairs: u16) -> Result<()> {
        let wanted = usize::from(pairs).min(self.queues.len());
        while self.serving > wanted {
            self.stop_last(active)?;
        }
        for (index, queue) in self.queues.iter_mut().enumerate() {
            queue.set_attached(index < wanted)?;
        }
        while self.serving < wanted {
            let (pair, queue) = (self.serving, &self.queues[self.serving]);
            // Counted before it starts, so that a partial start is stopped too.
            self.serving += 1;
            queue.vhost.start(&queue.tap, active, pair, &self.line)?;
        }
        Ok(())
    }

    fn stop(&mut self, active: &mut Active) -> Result<()> {
        let mut result = Ok(());
        while self.serving > 0 {
            result = result.and(self.stop_last(active));
        }
        result
    }

    fn stop_last(&mut self, active: &mut Active) -> Result<()> {
        self.serving -= 1;
        self.queues[self.serving].vhost.stop(active, self.serving)
    }

    fn serve(&mut self, active: &mut Active, control: &mut Control) -> Result<()> {
        self.use_pairs(active, control.pairs)?;
        let poll = Poll::new()?;
        poll.add(&active.stop, TOKEN_STOP, EventSet::IN)?;
        if let Some(queue) = control.queue {
            poll.add(&active.notifications[queue], TOKEN_CONTROL, EventSet::IN)?;
        }
        loop {
            for ready in poll.wait()? {
                if ready.token == TOKEN_STOP {
                    return Ok(());
                }
                control.queue.into_iter().for_each(|queue| drain(&active.notifications[queue]));
                control.serve(active, |active, pairs| self.use_pairs(active, pairs))?;
            }
        }
    }
}
