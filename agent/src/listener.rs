//! Accepts connections from the host only: a container's process that has a vsock must not control the agent, which has all
//! rights in the guest.

use std::time::Duration;

use agent_protocol::AGENT_PORT;
use futures::{Stream, stream};
use nix::libc::VMADDR_CID_HOST;
use tokio::time::sleep;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};
use ttrpc::asynchronous::transport::Listener;

use crate::error::{Error, Result};

/// What makes `accept` fail, as too many open files, is not gone at once.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);

/// Listens on the agent's port. Connections of others than the host are closed before a byte of them is read.
pub fn listen() -> Result<Listener> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))
        .map_err(Error::io("listen for the host"))?;
    Ok(Listener::new(connections_of_the_host(listener)))
}

fn connections_of_the_host(listener: VsockListener) -> impl Stream<Item = std::io::Result<VsockStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if peer.cid() == VMADDR_CID_HOST => return Some((Ok(stream), listener)),
                Ok(_) => {}
                Err(e) => {
                    sleep(AFTER_AN_ERROR).await;
                    return Some((Err(e), listener));
                }
            }
        }
    })
}
