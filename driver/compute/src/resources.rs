//! What the host has and what its containers take, told to the database and to Placement.

use std::collections::BTreeMap;

use cloud::{Inventory, Placement, ResourceClass};
use model::{
    ComputeNode, Container, ContainerType, ContainerUuid, Database, Json, NumaTopology, Status, Usage,
    service,
};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::host_facts;
use crate::options::Options;
use crate::pinning::Pins;

/// The binary's name in Zun's tables.
pub const BINARY: &str = "zun-compute";
/// What holds resources of a host: a capsule's containers share its own.
const HOLDERS: [ContainerType; 2] = [ContainerType::Container, ContainerType::Capsule];
/// Upstream's trait of a host that takes no new containers.
const TRAIT_DISABLED: &str = "CUSTOM_ZUN_COMPUTE_STATUS_DISABLED";
/// Placement's trait of an x86-64 host with AMD's or Intel's virtualisation.
const TRAITS_VIRTUALISATION: [(&str, &str); 2] = [("svm", "HW_CPU_X86_AMD_SVM"), ("vmx", "HW_CPU_X86_VMX")];

/// Tells both what the host has and uses.
pub async fn report(
    database: &Database,
    placement: &Placement,
    options: &Options,
    pins: &Pins,
) -> Result<()> {
    let host = &options.default.host;
    let containers = Container::list_by_host(database, &HOLDERS, host).await?;
    let uuid = ComputeNode::uuid_of(database, host).await?.unwrap_or_else(Uuid::new_v4);
    compute_node(uuid, options, &containers, pins.topology(options)?).save(database).await?;
    placement.ensure_provider(uuid, host).await?;
    placement.set_inventories(uuid, &inventories(options)).await?;
    let disabled =
        service(database, host, BINARY).await?.is_some_and(|service| service.disabled.unwrap_or(false));
    placement.set_traits(uuid, &traits(disabled)).await?;
    Ok(())
}

fn compute_node(
    uuid: Uuid,
    options: &Options,
    containers: &[Container],
    topology: NumaTopology,
) -> ComputeNode {
    let memory = host_facts::memory();
    let used = containers.iter().map(Container::usage).fold(Usage::default(), |sum, usage| Usage {
        cpu: sum.cpu + usage.cpu,
        memory: sum.memory + usage.memory,
        disk: sum.disk + usage.disk,
    });
    let count = |status| number(containers.iter().filter(|container| container.status == status).count());
    let (os, kernel_version) = host_facts::system();
    let total = number(memory.total);
    ComputeNode {
        uuid: uuid.to_string(),
        hostname: options.default.host.clone(),
        numa_topology: Json(topology),
        mem_total: total,
        mem_free: (total - used.memory).max(0),
        mem_available: number(memory.available),
        mem_used: used.memory,
        total_containers: number(containers.len()),
        running_containers: count(Status::Running),
        paused_containers: count(Status::Paused),
        stopped_containers: count(Status::Stopped),
        cpus: number(host_facts::cpus()),
        cpu_used: used.cpu,
        architecture: Some(std::env::consts::ARCH.into()),
        os_type: Some("linux".into()),
        os,
        kernel_version,
        disk_total: number(disk_gib(options)),
        disk_used: used.disk,
        disk_quota_supported: true,
        runtimes: Some(Json(vec!["kata".to_owned()])),
        enable_cpu_pinning: options.compute.enable_cpu_pinning,
    }
}

/// Refuses that `container` takes `asked` instead of what it `had`, if the host has not that much for containers. The same
/// bounds as in Placement: what is reserved is no container's, and what is left is given out several times over. Each
/// sandbox takes memory of its own.
pub async fn claim(
    database: &Database,
    options: &Options,
    container: ContainerUuid,
    had: Usage,
    asked: Usage,
) -> Result<()> {
    let overhead = i64::try_from(options.kata.memory_overhead).unwrap_or(0);
    let others = Container::list_by_host(database, &HOLDERS, &options.default.host).await?;
    let others = others.iter().filter(|other| other.uuid != container).map(Container::usage);
    let (mut cpus, mut memory) = (asked.cpu, i64::from(asked.memory) + overhead);
    for other in others {
        cpus += other.cpu;
        memory += i64::from(other.memory) + overhead;
    }
    let inventories = inventories(options);
    let room = |class| inventories.get(&class).map_or(0.0, capacity);
    let lacking = [
        shortage("VCPU", cpus.into(), room(ResourceClass::Vcpu), asked.cpu > had.cpu),
        shortage("MB of memory", memory as f64, room(ResourceClass::MemoryMb), asked.memory > had.memory),
    ];
    let lacking: Vec<_> = lacking.into_iter().flatten().collect();
    if lacking.is_empty() { Ok(()) } else { Err(Error::Resources(lacking.join("; "))) }
}

/// Says what there is not enough of. Whoever takes no more of it than before lacks nothing.
fn shortage(what: &str, taken: f64, room: f64, takes_more: bool) -> Option<String> {
    (takes_more && taken > room).then(|| format!("{taken} {what} would be taken of {room}"))
}

/// What Placement lets be allocated.
fn capacity(inventory: &Inventory) -> f64 {
    inventory.total.saturating_sub(inventory.reserved) as f64 * f64::from(inventory.allocation_ratio)
}

fn inventories(options: &Options) -> BTreeMap<ResourceClass, Inventory> {
    let compute = &options.compute;
    let inventory = |total: u64, reserved: u64, ratio: Option<f32>, initial: f32| Inventory {
        total,
        reserved: reserved.min(total.saturating_sub(1)),
        min_unit: 1,
        max_unit: total,
        step_size: 1,
        allocation_ratio: ratio.unwrap_or(initial),
    };
    let cpus = u64::from(host_facts::cpus());
    let reserved_gib = compute.reserved_host_disk_mb.div_ceil(1024);
    let all = [
        (
            ResourceClass::Vcpu,
            inventory(
                cpus,
                compute.reserved_host_cpus,
                compute.cpu_allocation_ratio,
                compute.initial_cpu_allocation_ratio,
            ),
        ),
        (
            ResourceClass::MemoryMb,
            inventory(
                host_facts::memory().total,
                compute.reserved_host_memory_mb,
                compute.ram_allocation_ratio,
                compute.initial_ram_allocation_ratio,
            ),
        ),
        (
            ResourceClass::DiskGb,
            inventory(
                disk_gib(options),
                reserved_gib,
                compute.disk_allocation_ratio,
                compute.initial_disk_allocation_ratio,
            ),
        ),
    ];
    all.into_iter().filter(|(_, inventory)| inventory.total > 0).collect()
}

fn traits(disabled: bool) -> BTreeMap<&'static str, bool> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let mut traits: BTreeMap<_, _> =
        TRAITS_VIRTUALISATION.into_iter().map(|(flag, name)| (name, has(flag))).collect();
    traits.insert(TRAIT_DISABLED, disabled);
    traits
}

fn disk_gib(options: &Options) -> u64 {
    let total = host_facts::disk_gib(&options.kata.state_path);
    let images = total as f64 * options.compute.reserve_disk_for_image.clamp(0.0, 1.0);
    total - images as u64
}

/// As large as a column of the table can be.
fn number(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_given_to_nobody_and_the_rest_several_times() {
        let inventory = |total, reserved, allocation_ratio| Inventory {
            total,
            reserved,
            min_unit: 1,
            max_unit: total,
            step_size: 1,
            allocation_ratio,
        };
        assert_eq!(capacity(&inventory(1024, 512, 1.5)), 768.0);
        assert_eq!(capacity(&inventory(1, 2, 16.0)), 0.0);
    }

    #[test]
    fn only_who_takes_more_can_lack_something() {
        assert_eq!(shortage("VCPU", 17.0, 16.0, true).unwrap(), "17 VCPU would be taken of 16");
        assert_eq!(shortage("VCPU", 16.0, 16.0, true), None);
        assert_eq!(shortage("VCPU", 17.0, 16.0, false), None, "the host shrank");
    }
}
