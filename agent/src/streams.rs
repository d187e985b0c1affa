//! One end of a process's pipe or terminal, read and written without blocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// Most bytes of one read, whatever the host asks for.
const READ_MAX: usize = 64 * 1024;

/// A non-blocking end of a stream.
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Takes over `fd`.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(Error::io("make a stream non-blocking"))?;
        Self::watch(fd)
    }

    fn watch(fd: OwnedFd) -> Result<Self> {
        // SAFETY: `OwnedFd` names the same open file until it is dropped, and only `AsyncFd` owns it.
        unsafe { AsyncFd::register(fd) }.map(Self).map_err(Error::io("watch a stream"))
    }

    /// Reads at most `length` bytes; nothing is the end of the stream.
    pub async fn read(&self, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length.clamp(1, READ_MAX)];
        let read = self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut buffer)?)).await;
        match read {
            Ok(length) => {
                buffer.truncate(length);
                Ok(buffer)
            }
            // A terminal whose last user is gone.
            Err(e) if e.raw_os_error() == Some(nix::libc::EIO) => Ok(Vec::new()),
            Err(e) => Err(Error::io("read a process's output")(e)),
        }
    }

    /// Writes all of `data`.
    pub async fn write(&self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| nix::unistd::write(fd, data).map_err(io::Error::from))
                .await
                .map_err(Error::io("write a process's input"))?;
            data = &data[written..];
        }
        Ok(())
    }

    /// Another handle of the same stream.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.0.get_ref().try_clone().map_err(Error::io("copy a stream"))?;
        Self::watch(fd)
    }

    /// The stream's descriptor.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
