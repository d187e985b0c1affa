//! CPU policy `dedicated`: which CPUs of this host a container has to itself, as upstream records them
//! (`zun/compute/claims.py`, `zun/objects/numa.py`).

use std::collections::BTreeSet;

use model::{Container, Cpuset, NumaTopology};
use sandbox::CpuPinning;
use serde_json::json;

use crate::error::{Error, Result};
use crate::host_facts;
use crate::options::Options;

/// Upstream's name of the policy.
const DEDICATED: &str = "dedicated";

/// Whether a container asks for CPUs of its own.
pub fn is_dedicated(container: &Container) -> bool {
    container.cpu_policy.as_deref() == Some(DEDICATED)
}

/// The CPUs that a row says the container has to itself.
pub fn of(container: &Container) -> Option<CpuPinning> {
    let cpuset = &container.cpuset.as_ref()?.0;
    let cpus = cpuset.cpuset_cpus.clone().filter(|cpus| !cpus.is_empty())?;
    let mems = cpuset.cpuset_mems.as_ref()?;
    let node = mems.get(0).unwrap_or(mems).as_u64()?;
    Some(CpuPinning { cpus, node: u32::try_from(node).ok()? })
}

/// What a container's row is to say.
pub fn cpuset(pinning: &CpuPinning) -> Cpuset {
    Cpuset { cpuset_cpus: Some(pinning.cpus.clone()), cpuset_mems: Some(json!([pinning.node])) }
}

/// This host's nodes: without the CPUs that are kept for others, and with what is taken of the rest.
pub fn topology(options: &Options, containers: &[Container]) -> Result<NumaTopology> {
    let floating = host_facts::parse_cpu_list(&options.default.floating_cpu_set).ok_or_else(|| {
        Error::Invalid(format!(
            "[DEFAULT] floating_cpu_set {:?} is no list of CPUs",
            options.default.floating_cpu_set
        ))
    })?;
    Ok(taken(host_facts::numa_topology(), &floating, containers))
}

fn taken(mut topology: NumaTopology, floating: &[u32], containers: &[Container]) -> NumaTopology {
    for node in &mut topology.nodes {
        node.cpuset.retain(|cpu| !floating.contains(cpu));
        let mut pinned = BTreeSet::new();
        for container in containers {
            let Some(pinning) = of(container).filter(|pinning| pinning.node == node.id) else { continue };
            pinned.extend(pinning.cpus.into_iter().filter(|cpu| node.cpuset.contains(cpu)));
            let memory = u64::try_from(container.usage().memory).unwrap_or(0);
            node.mem_available = node.mem_available.saturating_sub(memory);
        }
        node.pinned_cpus = pinned.into_iter().collect();
    }
    topology
}

/// Chooses CPUs of one node, and memory beside them, for a container that asks for its own.
pub fn choose(topology: &NumaTopology, container: &Container) -> Result<CpuPinning> {
    let usage = container.usage();
    let (count, memory) = (usage.cpu.round(), u64::try_from(usage.memory).unwrap_or(0));
    if count < 1.0 || (count - usage.cpu).abs() > f32::EPSILON {
        return Err(Error::Invalid(format!(
            "CPU policy {DEDICATED}: {} is no number of whole CPUs",
            usage.cpu
        )));
    }
    let count = count as usize;
    for node in topology.nodes.iter().filter(|node| node.mem_available >= memory) {
        let free: Vec<u32> =
            node.cpuset.iter().copied().filter(|cpu| !node.pinned_cpus.contains(cpu)).take(count).collect();
        if free.len() == count {
            return Ok(CpuPinning { cpus: free, node: node.id });
        }
    }
    Err(Error::Resources(format!("no NUMA node has {count} CPUs and {memory} MB of memory left to pin")))
}

#[cfg(test)]
mod tests {
    use model::NumaNode;
    use serde_json::Value;

    use super::*;

    fn container(cpu: f32, cpus: &[u32], node: u32) -> Container {
        let captured = include_str!("../../model/tests/container.json");
        let mut container: Value = serde_json::from_str(captured).unwrap();
        container["zun_object.data"]["cpu"] = json!(cpu);
        let mut container = Container::from_wire(&container).unwrap();
        let pinning = CpuPinning { cpus: cpus.to_vec(), node };
        container.cpuset = (!cpus.is_empty()).then(|| model::Json(cpuset(&pinning)));
        container
    }

    fn node(id: u32, cpuset: &[u32]) -> NumaNode {
        NumaNode { id, cpuset: cpuset.to_vec(), pinned_cpus: Vec::new(), mem_total: 200, mem_available: 200 }
    }

    fn two_nodes() -> NumaTopology {
        NumaTopology { nodes: vec![node(0, &[0, 1, 2, 3]), node(1, &[4, 5, 6, 7])] }
    }

    #[test]
    fn cpus_are_given_once_and_of_one_node() {
        let others = [container(2.0, &[1, 2], 0)];
        let topology = taken(two_nodes(), &[0], &others);
        assert_eq!(
            (&topology.nodes[0].cpuset, &topology.nodes[0].pinned_cpus),
            (&vec![1, 2, 3], &vec![1, 2])
        );
        assert_eq!(topology.nodes[0].mem_available, 200 - 128);
        let chosen = |cpu| choose(&topology, &container(cpu, &[], 0));
        // What is left of the first node's memory is too little.
        assert_eq!(chosen(2.0).unwrap(), CpuPinning { cpus: vec![4, 5], node: 1 });
        assert!(matches!(chosen(5.0), Err(Error::Resources(_))));
        assert!(matches!(chosen(0.5), Err(Error::Invalid(_))));
        let row = container(2.0, &[4, 5], 1);
        assert_eq!(of(&row), Some(CpuPinning { cpus: vec![4, 5], node: 1 }));
    }
}
