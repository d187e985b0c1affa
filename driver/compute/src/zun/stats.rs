//! `container_stats`: what a container uses, as upstream's Docker driver writes it.

use model::Container;
use sandbox::{Stats, TapCounters};
use serde_json::{Value, json};

use super::require_running;
use crate::engine::{Engine, HostEngine};
use crate::error::Result;
use crate::executor::require_created;
use crate::host_facts;
use crate::record::sandbox_name;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// What a container uses.
pub async fn stats(engine: &HostEngine, row: &Container) -> Result<Value> {
    require_created(row)?;
    require_running(engine, row, "stats").await?;
    let stats = engine.sandbox(row.uuid).stats(&sandbox_name(row.uuid)).await?;
    // The host's counters: a guest could say anything of its own.
    let attachments = engine.record(row.uuid)?.attachments;
    let taps = attachments.into_iter().map(|attachment| attachment.nic.tap);
    let network = taps.filter_map(|tap| TapCounters::read(&tap)).collect::<Vec<_>>();
    let name = row.name.clone().unwrap_or_default();
    Ok(written(&name, &stats, &network, host_facts::cpu_time_ns()))
}

/// Shares are of all the host's CPU time since it started, and of the memory that the container may use.
fn written(name: &str, stats: &Stats, network: &[TapCounters], host_cpu_ns: u64) -> Value {
    let memory = stats.memory_bytes.saturating_sub(stats.inactive_file_bytes);
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    let received: u64 = network.iter().map(|nic| nic.incoming.bytes).sum();
    let sent: u64 = network.iter().map(|nic| nic.outgoing.bytes).sum();
    json!({
        "CONTAINER": name,
        "CPU %": share(stats.cpu_ns, host_cpu_ns),
        "MEM USAGE(MiB)": memory as f64 / MEBIBYTE,
        "MEM LIMIT(MiB)": stats.memory_limit_bytes as f64 / MEBIBYTE,
        "MEM %": share(memory, stats.memory_limit_bytes),
        "BLOCK I/O(B)": format!("{}/{}", stats.block_read_bytes, stats.block_write_bytes),
        "NET I/O(B)": format!("{received}/{sent}"),
    })
}

#[cfg(test)]
mod tests {
    use sandbox::Flow;

    use super::*;

    #[test]
    fn statistics_have_upstreams_names_and_units() {
        let flow = |bytes| Flow { bytes, operations: 1 };
        let nic = |received, sent| TapCounters { incoming: flow(received), outgoing: flow(sent) };
        let stats = Stats {
            cpu_ns: 25,
            memory_bytes: 96 << 20,
            inactive_file_bytes: 32 << 20,
            memory_limit_bytes: 256 << 20,
            oom_kills: 0,
            pids: 1,
            block_read_bytes: 4096,
            block_write_bytes: 512,
            network: Vec::new(),
        };
        let expected = json!({
            "CONTAINER": "c", "CPU %": 2.5, "MEM USAGE(MiB)": 64.0, "MEM LIMIT(MiB)": 256.0, "MEM %": 25.0,
            "BLOCK I/O(B)": "4096/512", "NET I/O(B)": "11/22",
        });
        assert_eq!(written("c", &stats, &[nic(10, 20), nic(1, 2)], 1000), expected);
        assert_eq!(written("c", &Stats { memory_limit_bytes: 0, ..stats }, &[], 0)["CPU %"], 0.0);
    }
}
