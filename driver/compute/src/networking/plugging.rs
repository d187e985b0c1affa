//! A container's taps on their bridges.

use std::time::Duration;

use cloud::Neutron;
use tokio::time::{Instant, sleep};

use super::Attachment;
use crate::error::{Error, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long Neutron may take to wire a port.
#[derive(Debug, Clone, Copy)]
pub struct Plugging {
    /// Longest wait.
    pub timeout: Duration,
    /// Whether a longer one is an error.
    pub is_fatal: bool,
}

/// Puts a container's taps on their bridges. If one fails, none is left.
pub async fn plug(attachments: &[Attachment], owner: &str, host: &str) -> Result<()> {
    for attachment in attachments {
        if let Err(e) = attachment.vif(owner, host).plug().await {
            unplug(attachments).await;
            return Err(e.into());
        }
    }
    Ok(())
}

/// Takes a container's taps away, as far as that works.
pub async fn unplug(attachments: &[Attachment]) {
    for Attachment { port, .. } in attachments {
        if let Err(e) = network::unplug(port).await {
            tracing::error!("the tap of port {port} is left behind: {e}");
        }
    }
}

/// Waits until Neutron reports the ports wired.
pub async fn wait_active(neutron: &Neutron, attachments: &[Attachment], plugging: Plugging) -> Result<()> {
    if plugging.timeout.is_zero() {
        return Ok(());
    }
    let deadline = Instant::now() + plugging.timeout;
    for attachment in attachments {
        let port = &attachment.port;
        while neutron.port(port).await?.status != "ACTIVE" {
            if Instant::now() < deadline {
                sleep(POLL_INTERVAL).await;
                continue;
            }
            let message = format!("port {port} was not active within {} s", plugging.timeout.as_secs());
            if plugging.is_fatal {
                return Err(Error::Network(message));
            }
            tracing::warn!("{message}");
            return Ok(());
        }
    }
    Ok(())
}
