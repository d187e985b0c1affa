//! Adds CPUs and memory to a running guest.

use std::sync::Arc;
use std::time::Duration;

use agent_protocol::messages::OnlineCPUMemRequest;
use agent_protocol::service::AgentServiceClient;
use tokio::time::{Instant, sleep};
use vmm::Machine;

use crate::agent::deadline;
use crate::aside::aside;
use crate::error::{Error, Result};

/// Time for a guest to take the memory that it was offered.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);
const MEMORY_INTERVAL: Duration = Duration::from_millis(5);
pub const MEBIBYTE: u64 = 1 << 20;

/// Brings at least `vcpus` CPUs online in the guest.
pub async fn raise_vcpus(agent: &AgentServiceClient, vcpus: u8) -> Result<()> {
    let request =
        OnlineCPUMemRequest { wait: true, nb_cpus: vcpus.into(), cpu_only: true, ..Default::default() };
    agent.online_cpu_mem(deadline(), &request).await?;
    Ok(())
}

/// Adds memory until the guest has `mebibytes`. If it does not take them in time, the request is reverted.
pub async fn raise_memory(machine: &Arc<Machine>, mebibytes: u64) -> Result<()> {
    let (had, _) = machine.memory();
    offer_memory(machine, mebibytes).await?;
    let give_up = Instant::now() + MEMORY_TIMEOUT;
    loop {
        let (has, wanted) = machine.memory();
        if has >= wanted {
            return Ok(());
        }
        if Instant::now() > give_up {
            offer_memory(machine, had / MEBIBYTE).await?;
            return Err(Error::MemoryNotTaken { has: has / MEBIBYTE, wanted: wanted / MEBIBYTE });
        }
        sleep(MEMORY_INTERVAL).await;
    }
}

/// Asks the guest to have so much. It may be about to reset its memory device, which is waited for.
pub async fn offer_memory(machine: &Arc<Machine>, mebibytes: u64) -> Result<()> {
    let machine = Arc::clone(machine);
    aside(move || Ok(machine.resize_memory(mebibytes)?)).await
}
