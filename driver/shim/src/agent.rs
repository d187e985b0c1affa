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

/// Time for a guest to boot until its agent answers.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for one attempt: a guest that is not up yet answers with a reset, or not at all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts at a guest whose agent sends no ready signal, as Kata's. Each attempt costs the guest
/// time.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest reply line, `OK 4294967295\n`.
const REPLY_MAX: usize = 14;

/// Timeout of calls that do not wait for a process.
pub fn deadline() -> Context {
    with_duration(Duration::from_secs(60))
}

/// Timeout of calls that make a container: its mounts may be large, and the host may be busy.
pub fn creation_deadline() -> Context {
    with_duration(Duration::from_secs(180))
}

/// No timeout, for calls that wait for a process.
pub fn no_deadline() -> Context {
    Context::default()
}

/// Connects once the agent listens, which `ready_signal` reports, and checks that it answers.
pub async fn connect(socket: &Path, ready_signal: &UnixStream) -> Result<AgentServiceClient> {
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
        // Only the arrival of a byte matters, not its value. The machine keeps the other end open.
        if timeout(RETRY_PAUSE, ready_signal.readable()).await.is_ok() {
            let _ = ready_signal.try_read(&mut [0; 16]);
        }
    }
}

/// Attempts the handshake once; `None` if nothing listens in the guest.
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
