//! Requests on the control socket, some with open files: a confined shim can open none.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use crate::message::{Request, read_line};
use crate::plan::QUEUE_PAIRS_MAX;

/// Most files that come with a request: an interface's queues, each with its kernel data path.
const FILES_MAX: usize = 2 * QUEUE_PAIRS_MAX as usize;

/// Sends a request, and `files` with its first byte.
pub async fn send_request(
    stream: &mut UnixStream,
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let send = || {
        let data = [IoSlice::new(&line)];
        Ok(sendmsg::<()>(stream.as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None)?)
    };
    let sent = stream.async_io(Interest::WRITABLE, send).await?;
    stream.write_all(&line[sent..]).await
}

/// Receives a request, and the files that came with its first byte. None is the end of the stream.
pub async fn receive_request(stream: &mut UnixStream) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let mut start = [0; 4096];
    let receive = || receive_with_files(stream.as_fd(), &mut start);
    let (length, files) = stream.async_io(Interest::READABLE, receive).await?;
    let mut rest = BufReader::new((&start[..length]).chain(stream));
    Ok(read_line(&mut rest).await?.map(|request| (request, files)))
}

fn receive_with_files(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; FILES_MAX]);
    let mut data = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just installed these descriptors for us, and nobody else knows of them.
            files.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request came with too many files"));
    }
    Ok((message.bytes, files))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn files_come_with_their_request() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        // Longer than what is received first.
        let long = Request::EjectDisk("x".repeat(100_000));
        for files in [&[][..], &[reader.as_fd()], &[reader.as_fd(), reader.as_fd()]] {
            let receiving = receive_request(&mut theirs);
            let (sent, received) = tokio::join!(send_request(&mut ours, &long, files), receiving);
            sent.unwrap();
            let (request, passed) = received.unwrap().unwrap();
            assert!(matches!(request, Request::EjectDisk(name) if name.len() == 100_000));
            assert_eq!(passed.len(), files.len());
            for passed in passed {
                writer.write_all(b"y").unwrap();
                let mut byte = [0];
                File::from(passed).read_exact(&mut byte).unwrap();
                assert_eq!(&byte, b"y");
            }
        }
        let many = [reader.as_fd(); FILES_MAX + 1];
        let (sent, received) =
            tokio::join!(send_request(&mut ours, &Request::State, &many), receive_request(&mut theirs));
        sent.unwrap();
        assert!(received.is_err(), "more files than any request has");
        drop(ours);
        assert!(receive_request(&mut theirs).await.unwrap().is_none());
    }
}
