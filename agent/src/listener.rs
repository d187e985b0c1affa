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
            let accepted = listener.accept().await;
            if accepted.is_err() {
                sleep(AFTER_AN_ERROR).await;
            }
            if let Some(taken) = taken(accepted) {
                return Some((taken, listener));
            }
        }
    })
}

/// What becomes of a connection: that of another than the host is dropped.
fn taken<S>(accepted: std::io::Result<(S, VsockAddr)>) -> Option<std::io::Result<S>> {
    match accepted {
        Ok((stream, peer)) => (peer.cid() == VMADDR_CID_HOST).then_some(Ok(stream)),
        Err(e) => Some(Err(e)),
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::{VMADDR_CID_HYPERVISOR, VMADDR_CID_LOCAL};

    use super::*;

    #[test]
    fn nobody_but_the_host_is_let_in() {
        let is_let_in = |cid, port| taken(Ok(((), VsockAddr::new(cid, port)))).is_some();
        assert!(is_let_in(VMADDR_CID_HOST, 1) && is_let_in(VMADDR_CID_HOST, 70_000));
        // The guest itself, by its loopback and by its own address, and addresses that nobody should have.
        for cid in [VMADDR_CID_LOCAL, 3, VMADDR_CID_HYPERVISOR, VMADDR_CID_ANY] {
            assert!(!is_let_in(cid, 1), "{cid}");
        }
    }
}
