//! CPUs and memory that a guest gets while it runs.

use std::time::Duration;

use agent_protocol::messages::OnlineCPUMemRequest;
use agent_protocol::service::AgentServiceClient;
use tokio::time::{Instant, sleep};
use vmm::Machine;

use crate::agent::deadline;
use crate::error::{Error, Result};

/// How long a guest may take until it has the memory that it was offered.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);
const MEMORY_INTERVAL: Duration = Duration::from_millis(5);
pub const MEBIBYTE: u64 = 1 << 20;

/// Lets the guest use at least `vcpus` CPUs.
pub async fn raise_vcpus(agent: &AgentServiceClient, vcpus: u8) -> Result<()> {
    let request =
        OnlineCPUMemRequest { wait: true, nb_cpus: vcpus.into(), cpu_only: true, ..Default::default() };
    agent.online_cpu_mem(deadline(), &request).await?;
    Ok(())
}

/// Gives the guest memory until it has `mebibytes`. If it does not take them, it is left with what it had.
pub async fn raise_memory(machine: &Machine, mebibytes: u64) -> Result<()> {
    let (had, _) = machine.memory();
    machine.resize_memory(mebibytes)?;
    let give_up = Instant::now() + MEMORY_TIMEOUT;
    loop {
        let (has, wanted) = machine.memory();
        if has >= wanted {
            return Ok(());
        }
        if Instant::now() > give_up {
            machine.resize_memory(had / MEBIBYTE)?;
            return Err(Error::MemoryNotTaken { has: has / MEBIBYTE, wanted: wanted / MEBIBYTE });
        }
        sleep(MEMORY_INTERVAL).await;
    }
}
