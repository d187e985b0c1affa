//! Clients connected to a process: they write its input and read its output.

use std::pin::pin;

use agent_protocol::messages::TtyWinResizeRequest;
use agent_protocol::service::AgentServiceClient;
use shim_control::{LogStream, Resize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::agent::deadline;
use crate::containers;
use crate::error::Result;
use crate::output::Pieces;

const PIECE_MAX: usize = 32 * 1024;
const SIGHUP: u32 = 1;
/// Docker's keys to detach from a terminal: Ctrl-P and Ctrl-Q.
const DETACH: [u8; 2] = [0x10, 0x11];

/// A client that is attached to a container.
pub struct Attached {
    /// The container.
    pub container: String,
    /// Its output.
    pub pieces: Pieces,
    /// Whether its first process has a terminal.
    pub terminal: bool,
}

/// A process to which a client is connected.
pub struct Connected<'a> {
    /// The guest's agent.
    pub agent: &'a AgentServiceClient,
    /// The container.
    pub container: &'a str,
    /// The process.
    pub process: &'a str,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// How a client's input ended.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// The client closed its direction.
    Closed,
    /// The client pressed the detach keys.
    Detached,
}

impl Connected<'_> {
    /// Serves an attached client until it leaves or the container's output ends.
    pub async fn attached(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        mut pieces: Pieces,
    ) {
        let output = async {
            while let Some(piece) = pieces.recv().await {
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = output => {}
            _ = self.feed(&mut reader) => {}
        }
    }

    /// Serves the client for which the process was made, until the process has ended.
    pub async fn interactive(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) -> Result<()> {
        let Self { agent, container, process, .. } = *self;
        let writer = tokio::sync::Mutex::new(&mut writer);
        // Output is read even after the client has left, so that the process does not block.
        let show = async |stream| {
            while let Some(data) = containers::read(agent, container, process, stream).await {
                let _ = writer.lock().await.write_all(&data).await;
            }
        };
        let output = async { tokio::join!(show(LogStream::Stdout), show(LogStream::Stderr)) };
        let input = async {
            let left = self.feed(&mut reader).await;
            self.leave(left).await;
            std::future::pending::<()>().await;
        };
        let mut output = pin!(output);
        tokio::select! {
            _ = &mut output => {}
            () = input => {}
        }
        containers::wait(agent, container, process).await?;
        Ok(())
    }

    async fn leave(&self, left: Left) {
        let done = match (left, self.terminal) {
            (Left::Detached, _) => Ok(()),
            (Left::Closed, true) => {
                containers::signal_process(self.agent, self.container, self.process, SIGHUP).await
            }
            (Left::Closed, false) => containers::close_input(self.agent, self.container, self.process).await,
        };
        if let Err(e) = done {
            tracing::debug!(error = %e, "a process does not learn that its user has left");
        }
    }

    async fn write(&self, data: &[u8]) -> Result<()> {
        containers::write(self.agent, self.container, self.process, data).await
    }

    /// Writes the client's input to the process.
    async fn feed(&self, reader: &mut (impl AsyncRead + Unpin)) -> Left {
        let mut keys = Keys::default();
        let mut buffer = vec![0; PIECE_MAX];
        let mut takes_input = true;
        loop {
            let length = match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return Left::Closed,
                Ok(length) => length,
            };
            let (data, detached) = match self.terminal {
                true => keys.filter(&buffer[..length]),
                false => (buffer[..length].to_vec(), false),
            };
            // A process whose input is closed is still shown, and its client may still leave.
            takes_input = takes_input && (data.is_empty() || self.write(&data).await.is_ok());
            if detached {
                return Left::Detached;
            }
        }
    }
}

/// Sets the size of a process's terminal.
pub async fn resize(agent: &AgentServiceClient, resize: &Resize) -> Result<()> {
    let request = TtyWinResizeRequest {
        container_id: resize.container.clone(),
        exec_id: resize.exec.clone().unwrap_or_else(|| resize.container.clone()),
        row: resize.size.rows.into(),
        column: resize.size.columns.into(),
        ..Default::default()
    };
    agent.tty_win_resize(deadline(), &request).await?;
    Ok(())
}

/// Filters the detach keys. The first is held back until the next key.
#[derive(Default)]
struct Keys {
    first_pressed: bool,
}

impl Keys {
    /// The input for the process, and whether the keys were pressed after it.
    fn filter(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        let mut rest = Vec::with_capacity(data.len() + 1);
        for byte in data {
            if std::mem::take(&mut self.first_pressed) {
                if *byte == DETACH[1] {
                    return (rest, true);
                }
                rest.push(DETACH[0]);
            }
            if *byte == DETACH[0] {
                self.first_pressed = true;
            } else {
                rest.push(*byte);
            }
        }
        (rest, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_across_pieces_and_others_pass() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
        assert_eq!(Keys::default().filter(b"\x11\x00\xff"), (b"\x11\x00\xff".to_vec(), false));
    }
}
