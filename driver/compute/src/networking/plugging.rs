//! A container's taps on their bridges.

use std::time::Duration;

use cloud::Neutron;
use tokio::time::{Instant, sleep};

use super::Attachment;
use crate::error::{Error, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
const ACTIVE: &str = "ACTIVE";

/// How long Neutron may take to wire a port.
#[derive(Debug, Clone, Copy)]
pub struct Plugging {
    /// Longest wait.
    pub timeout: Duration,
    /// Whether a longer one is an error.
    pub is_fatal: bool,
}

/// Puts the taps of a container, whose guest has so many pairs of queues, on their bridges. If one fails, none is left.
pub async fn plug(attachments: &[Attachment], owner: &str, host: &str, queue_pairs: u8) -> Result<()> {
    for attachment in attachments {
        if let Err(e) = attachment.vif(owner, host).plug(queue_pairs).await {
            unplug(attachments, owner).await;
            return Err(e.into());
        }
    }
    Ok(())
}

/// Takes the taps of the container `owner` away, as far as that works. Those of ports that another container has by now stay.
pub async fn unplug(attachments: &[Attachment], owner: &str) {
    for Attachment { port, .. } in attachments {
        if let Err(e) = network::unplug(port, Some(owner)).await {
            tracing::error!(port, error = %e, "a tap is left behind");
        }
    }
}

/// Waits until Neutron reports the ports wired. All are asked for together.
pub async fn wait_active(neutron: &Neutron, attachments: &[Attachment], plugging: Plugging) -> Result<()> {
    let ports = attachments.iter().map(|attachment| attachment.port.clone()).collect();
    wait(ports, |ports| active_of(neutron.clone(), ports), plugging).await
}

/// Those of the ports that are active. One that is gone is [`Error::PortGone`].
async fn active_of(neutron: Neutron, ports: Vec<String>) -> Result<Vec<String>> {
    let found = neutron.ports_by_ids(&ports).await?;
    if let Some(port) = ports.iter().find(|port| found.iter().all(|one| one.id != **port)) {
        return Err(Error::PortGone(port.clone()));
    }
    Ok(found.into_iter().filter(|port| port.status == ACTIVE).map(|port| port.id).collect())
}

async fn wait<F: Future<Output = Result<Vec<String>>> + Send>(
    mut ports: Vec<String>,
    active: impl Fn(Vec<String>) -> F + Send,
    plugging: Plugging,
) -> Result<()> {
    if plugging.timeout.is_zero() {
        return Ok(());
    }
    let deadline = Instant::now() + plugging.timeout;
    while !ports.is_empty() {
        let looked = active(ports.clone()).await;
        let why = match looked {
            Ok(now) => {
                ports.retain(|port| !now.contains(port));
                String::new()
            }
            Err(e @ Error::PortGone(_)) => return Err(e),
            // Neutron is asked again: it may only have been started anew.
            Err(e) => format!(": {e}"),
        };
        let Some(port) = ports.first() else { break };
        if Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
            continue;
        }
        let message = format!("port {port} was not active within {} s{why}", plugging.timeout.as_secs());
        if plugging.is_fatal {
            return Err(Error::Network(message));
        }
        tracing::warn!(port, "{message}");
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRED: &str = "a";

    fn ports() -> Vec<String> {
        ["a", "b"].map(str::to_owned).into()
    }

    async fn waited(seconds: u64, is_fatal: bool) -> (Result<()>, u64) {
        let plugging = Plugging { timeout: Duration::from_secs(seconds), is_fatal };
        let began = Instant::now();
        let result = wait(ports(), |_| async { Ok(vec![WIRED.to_owned()]) }, plugging).await;
        (result, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_never_wired_is_an_error_or_a_warning() {
        let (fatal, took) = waited(300, true).await;
        assert_eq!(fatal.unwrap_err().to_string(), "port b was not active within 300 s");
        assert_eq!(took, 300);
        let (tolerant, took) = waited(300, false).await;
        assert!(tolerant.is_ok() && took == 300);
        let (unasked, took) = waited(0, true).await;
        assert!(unasked.is_ok() && took == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_wired_is_waited_for_no_longer() {
        let began = Instant::now();
        let plugging = Plugging { timeout: Duration::from_secs(300), is_fatal: true };
        let wired = |ports| async move {
            Ok(if began.elapsed() > Duration::from_secs(7) { ports } else { Vec::new() })
        };
        wait(ports(), wired, plugging).await.unwrap();
        assert!((7..9).contains(&began.elapsed().as_secs()));
        let gone = |_| async { Err(Error::PortGone("a".into())) };
        assert_eq!(wait(ports(), gone, plugging).await.unwrap_err().to_string(), "port a is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn neutron_is_asked_again_that_gave_no_answer() {
        let began = Instant::now();
        let plugging = Plugging { timeout: Duration::from_secs(300), is_fatal: true };
        let away = move |ports| async move {
            let is_back = began.elapsed() > Duration::from_secs(7);
            if is_back { Ok(ports) } else { Err(Error::Network("no answer".into())) }
        };
        wait(ports(), away, plugging).await.unwrap();
        let never = |_| async { Err(Error::Network("no answer".into())) };
        let error = wait(ports(), never, plugging).await.unwrap_err().to_string();
        assert_eq!(error, "port a was not active within 300 s: no answer");
    }
}
