use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};
use std::os::fd::AsRawFd;
use vmm_sys_util::eventfd::EventFd;

use crate::event::event_fd;
use crate::{Error, Result};

/// The operations of disks.
const OPERATIONS: [u8; 4] =
    [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

/// An io_uring that can do nothing but read, write, flush and release parts of files that are open. It is made before its
/// process is confined: a thread that could make another would have operations that its list of system calls forbids.
pub struct Ring {
    ring: IoUring,
    completed: EventFd,
    next_id: u64,
}

impl Ring {
    /// A ring for so many requests at one time.
    pub fn new(size: u16) -> Result<Self> {
        let what = || Error::io("create an io_uring");
        let ring = IoUring::builder().setup_r_disabled().build(size.into()).map_err(what())?;
        let completed = event_fd()?;
        let submitter = ring.submitter();
        submitter.register_eventfd(completed.as_raw_fd()).map_err(what())?;
        let mut allowed = OPERATIONS.map(Restriction::sqe_op);
        submitter.register_restrictions(&mut allowed).map_err(what())?;
        submitter.register_enable_rings().map_err(what())?;
        Ok(Self { ring, completed, next_id: 0 })
    }

    /// Becomes readable when a request is complete.
    pub fn completed(&self) -> &EventFd {
        &self.completed
    }

    /// A number that no request of this ring had before.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Puts a request into the queue; false if that is full.
    ///
    /// # Safety
    /// What the request names must stay where it is until it is complete.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: as the caller promises.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Hands the queue to the kernel.
    pub fn submit(&self) -> Result<()> {
        self.ring.submit().map(drop).map_err(Error::io("submit disk requests"))
    }

    /// Waits until one more is complete.
    pub fn wait(&self) -> Result<()> {
        self.ring.submit_and_wait(1).map(drop).map_err(Error::io("wait for disk requests"))
    }

    /// The requests that are complete, by their numbers, and their results.
    pub fn results(&mut self) -> Vec<(u64, i32)> {
        self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect()
    }
}

#[cfg(test)]
mod tests {
    use io_uring::types::Fd;

    use super::*;

    fn result_of(entry: squeue::Entry) -> i32 {
        let mut ring = Ring::new(4).unwrap();
        // SAFETY: the entries of these tests name nothing that ends before them.
        assert!(unsafe { ring.push(&entry) });
        ring.wait().unwrap();
        ring.results()[0].1
    }

    #[test]
    fn what_is_no_disks_operation_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(result_of(opcode::Fsync::new(Fd(file.as_raw_fd())).build()), 0);
        let path = c"/etc/passwd";
        for refused in [
            opcode::Nop::new().build(),
            opcode::Socket::new(libc::AF_VSOCK, libc::SOCK_STREAM, 0).build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build(),
            opcode::SymlinkAt::new(Fd(libc::AT_FDCWD), path.as_ptr(), c"x".as_ptr()).build(),
        ] {
            assert_eq!(result_of(refused), -libc::EACCES);
        }
    }

    #[test]
    fn a_ring_is_changed_by_nobody_any_more() {
        let ring = Ring::new(4).unwrap();
        assert!(ring.ring.submitter().register_eventfd(ring.completed.as_raw_fd()).is_err());
    }
}
