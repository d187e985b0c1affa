//! Between one who came over HTTP and a process.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbox::Connection;
use soketto::Incoming;
use soketto::handshake::http::Server as Handshake;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Most bytes of one message.
const MESSAGE_MAX: usize = 256 << 10;
const PIECE_MAX: usize = 32 * 1024;

/// Over a websocket (RFC 6455). What comes is taken as it is: the proxy sends any bytes as a text.
pub async fn websocket(
    handshake: Handshake,
    upgraded: Upgraded,
    connection: Connection,
) -> std::io::Result<()> {
    let mut builder = handshake.into_builder(TokioIo::new(upgraded).compat());
    builder.set_max_message_size(MESSAGE_MAX);
    builder.set_max_frame_size(MESSAGE_MAX);
    let (mut sender, mut receiver) = builder.finish();
    let (mut from_process, mut to_process) = tokio::io::split(connection);
    let output = async {
        let mut piece = vec![0; PIECE_MAX];
        loop {
            let length = from_process.read(&mut piece).await?;
            if length == 0 {
                break sender.close().await.map_err(std::io::Error::other);
            }
            sender.send_binary(&piece[..length]).await.map_err(std::io::Error::other)?;
            sender.flush().await.map_err(std::io::Error::other)?;
        }
    };
    let input = async {
        let mut message = Vec::new();
        loop {
            message.clear();
            match receiver.receive(&mut message).await.map_err(std::io::Error::other)? {
                Incoming::Data(_) => to_process.write_all(&message).await?,
                Incoming::Pong(_) => {}
                Incoming::Closed(_) => break Ok(()),
            }
        }
    };
    tokio::select! {
        done = output => done,
        done = input => done,
    }
}

/// Over the connection itself, as Docker does it. Each direction may be closed by itself.
pub async fn raw(upgraded: Upgraded, mut connection: Connection) -> std::io::Result<()> {
    copy_bidirectional(&mut TokioIo::new(upgraded), &mut connection).await.map(|_| ())
}
