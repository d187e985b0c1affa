//! CPU policy `dedicated`: which CPUs of this host a container has to itself, as upstream records them
//! (`zun/compute/claims.py`, `zun/objects/numa.py`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Container, ContainerUuid, NumaTopology};
use sandbox::CpuPinning;

use crate::error::{Error, Result};
use crate::host_facts;
use crate::options::Options;

/// Upstream's name of the policy.
const DEDICATED: &str = "dedicated";

/// Whether a container asks for CPUs of its own.
pub fn is_dedicated(container: &Container) -> bool {
    container.cpu_policy.as_deref() == Some(DEDICATED)
}

/// What containers of this host have to themselves. Zun has a column for it, but its API cannot read a row in which that
/// says anything (`zun/objects/container.py`: a list is no set): so this host keeps it, with each container's record.
#[derive(Default)]
pub struct Pins(Mutex<BTreeMap<ContainerUuid, Pin>>);

#[derive(Clone)]
struct Pin {
    pinning: CpuPinning,
    /// MiB.
    memory: u64,
}

impl Pins {
    /// A container has these CPUs, and so many MiB of memory, to itself.
    pub fn insert(&self, uuid: ContainerUuid, pinning: CpuPinning, memory: u64) {
        self.all().insert(uuid, Pin { pinning, memory });
    }

    /// What a container has.
    pub fn get(&self, uuid: ContainerUuid) -> Option<CpuPinning> {
        self.all().get(&uuid).map(|pin| pin.pinning.clone())
    }

    /// A container is gone.
    pub fn remove(&self, uuid: ContainerUuid) {
        self.all().remove(&uuid);
    }

    /// This host's nodes: without the CPUs that are kept for others, and with what is taken of the rest.
    pub fn topology(&self, options: &Options) -> Result<NumaTopology> {
        let set = &options.default.floating_cpu_set;
        let floating = host_facts::parse_cpu_list(set).ok_or_else(|| {
            Error::invalid("[DEFAULT] floating_cpu_set", format!("{set:?} is no list of CPUs"))
        })?;
        let pins: Vec<Pin> = self.all().values().cloned().collect();
        Ok(taken(host_facts::numa_topology(), &floating, &pins))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<ContainerUuid, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn taken(mut topology: NumaTopology, floating: &[u32], pins: &[Pin]) -> NumaTopology {
    for node in &mut topology.nodes {
        node.cpuset.retain(|cpu| !floating.contains(cpu));
        let own = pins.iter().filter(|pin| pin.pinning.node == node.id);
        let pinned: BTreeSet<u32> = own.clone().flat_map(|pin| pin.pinning.cpus.iter().copied()).collect();
        node.pinned_cpus = pinned.into_iter().filter(|cpu| node.cpuset.contains(cpu)).collect();
        node.mem_available = node.mem_available.saturating_sub(own.map(|pin| pin.memory).sum());
    }
    topology
}

/// Chooses CPUs of one node, and memory beside them, for a container that asks for its own.
pub fn choose(topology: &NumaTopology, container: &Container) -> Result<CpuPinning> {
    let usage = container.usage();
    let (count, memory) = (usage.cpu.round(), u64::try_from(usage.memory).unwrap_or(0));
    if count < 1.0 || (count - usage.cpu).abs() > f32::EPSILON {
        let reason = format!("{} is no number of whole CPUs, which the policy {DEDICATED} needs", usage.cpu);
        return Err(Error::invalid("cpu", reason));
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
    use serde_json::{Value, json};

    use super::*;

    fn container(cpu: f32) -> Container {
        let captured = include_str!("../../model/tests/container.json");
        let mut container: Value = serde_json::from_str(captured).unwrap();
        container["zun_object.data"]["cpu"] = json!(cpu);
        Container::from_wire(&container).unwrap()
    }

    fn node(id: u32, cpuset: &[u32]) -> NumaNode {
        NumaNode { id, cpuset: cpuset.to_vec(), pinned_cpus: Vec::new(), mem_total: 200, mem_available: 200 }
    }

    fn two_nodes() -> NumaTopology {
        NumaTopology { nodes: vec![node(0, &[0, 1, 2, 3]), node(1, &[4, 5, 6, 7])] }
    }

    #[test]
    fn cpus_are_given_once_and_of_one_node() {
        let pin = Pin { pinning: CpuPinning { cpus: vec![1, 2], node: 0 }, memory: 128 };
        let topology = taken(two_nodes(), &[0], &[pin]);
        assert_eq!(
            (&topology.nodes[0].cpuset, &topology.nodes[0].pinned_cpus),
            (&vec![1, 2, 3], &vec![1, 2])
        );
        assert_eq!(topology.nodes[0].mem_available, 200 - 128);
        let chosen = |cpu| choose(&topology, &container(cpu));
        // What is left of the first node's memory is too little.
        assert_eq!(chosen(2.0).unwrap(), CpuPinning { cpus: vec![4, 5], node: 1 });
        assert!(matches!(chosen(5.0), Err(Error::Resources(_))));
        assert!(matches!(chosen(0.5), Err(Error::Invalid { .. })));
    }
}
