//! The connection to the guest's agent.

use std::path::Path;
use std::time::Duration;

use agent_protocol::AGENT_PORT;
use agent_protocol::messages::GuestDetailsRequest;
use agent_protocol::service::AgentServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{Context, with_duration};

use crate::error::{Error, Result};

/// How long a guest may take until its agent answers.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one attempt may take: a guest that is not up yet answers with a reset, or not at all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts at a guest whose agent does not knock: Kata's does not. Each costs the guest time.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest reply line, `OK 4294967295\n`.
const REPLY_MAX: usize = 14;

/// How long the agent may take for a call that does not wait for a process.
pub fn deadline() -> Context {
    with_duration(Duration::from_secs(60))
}

/// How long the agent may take to make a container: it mounts what may be large, on a host that may be busy.
pub fn creation_deadline() -> Context {
    with_duration(Duration::from_secs(180))
}

/// For calls that wait for a process.
pub fn no_deadline() -> Context {
    Context::default()
}

/// Connects once the agent listens, which it makes known by `knock`, and makes sure that it answers.
pub async fn connect(socket: &Path, knock: &UnixStream) -> Result<AgentServiceClient> {
    let give_up = Instant::now() + BOOT_TIMEOUT;
    loop {
        if let Ok(Some(stream)) = timeout(ATTEMPT_TIMEOUT, open_stream(socket)).await {
            let client = AgentServiceClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)));
            client.get_guest_details(deadline(), &GuestDetailsRequest::default()).await?;
            return Ok(client);
        }
        if Instant::now() > give_up {
            return Err(Error::AgentTimeout(BOOT_TIMEOUT.as_secs()));
        }
        // The other end stays open as long as the machine runs; what is read says no more than that it came.
        if timeout(RETRY_PAUSE, knock.readable()).await.is_ok() {
            let _ = knock.try_read(&mut [0; 16]);
        }
    }
}

/// One attempt at the handshake; none while nobody listens in the guest.
async fn open_stream(socket: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes()).await.ok()?;
    let mut reply = Vec::new();
    while reply.last() != Some(&b'\n') {
        if reply.len() >= REPLY_MAX {
            return None;
        }
        reply.push(stream.read_u8().await.ok()?);
    }
    reply.starts_with(b"OK ").then_some(stream)
}
