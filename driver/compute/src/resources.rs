//! What the host has and what its containers take, told to the database and to Placement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloud::{Inventory, Placement, ResourceClass};
use model::{ComputeNode, Container, ContainerUuid, Database, Json, NumaTopology, Status, Usage, service};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, OnceCell};
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::host_facts;
use crate::host_names::HostNames;
use crate::options::Options;
use crate::pins::{self, Pins};
use crate::rows::{BINARY, OWNERS};

/// How long the first claim waits to learn what Placement schedules by.
const FIRST_REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's trait of a host that takes no new containers.
const TRAIT_DISABLED: &str = "CUSTOM_ZUN_COMPUTE_STATUS_DISABLED";
/// Placement's trait of an x86-64 host with AMD's or Intel's virtualisation.
const TRAITS_VIRTUALISATION: [(&str, &str); 2] = [("svm", "HW_CPU_X86_AMD_SVM"), ("vmx", "HW_CPU_X86_VMX")];

/// What this host has, and who takes it.
#[derive(Clone)]
pub struct Resources {
    database: Database,
    placement: Placement,
    options: Arc<Options>,
    pins: Arc<Pins>,
    /// What Placement was told last, and before that: what it schedules by, and what it has scheduled by.
    told: Arc<Mutex<[BTreeMap<ResourceClass, Inventory>; 2]>>,
    claims: Arc<AsyncMutex<()>>,
    /// Done once somebody has waited for the first report.
    first_report: Arc<OnceCell<()>>,
}

impl Resources {
    /// The resources of this host.
    pub fn new(database: Database, placement: Placement, options: Arc<Options>, pins: Arc<Pins>) -> Self {
        let (told, claims, first_report) = (Arc::default(), Arc::default(), Arc::default());
        Self { database, placement, options, pins, told, claims, first_report }
    }

    /// CPUs that containers have to themselves.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Takes over what the database and Placement have of this host under its former names.
    pub async fn adopt_names(&self, names: &HostNames) -> Result<()> {
        for former in &names.former {
            ComputeNode::rename(&self.database, former, &names.now).await?;
        }
        Ok(())
    }

    /// Tells the database and Placement what the host has and uses.
    pub async fn report(&self) -> Result<()> {
        let (database, options) = (&self.database, &self.options);
        let host = &options.default.host;
        let containers = Container::list_by_host(database, &OWNERS, host).await?;
        let uuid = ComputeNode::uuid_of(database, host).await?.unwrap_or_else(Uuid::new_v4);
        compute_node(uuid, options, &containers, self.pins.topology(options)?).save(database).await?;
        self.placement.ensure_provider(uuid, host).await?;
        let known = self.placement.inventories(uuid).await?;
        let wanted = inventories(options, &known, containers.len());
        self.placement.set_inventories(uuid, &wanted).await?;
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut told[0], wanted);
            // What waited for this service was scheduled by what it told in its life before.
            told[1] = if before.is_empty() { known } else { before };
        }
        let disabled =
            service(database, host, BINARY).await?.is_some_and(|service| service.disabled.unwrap_or(false));
        self.placement.set_traits(uuid, &traits(disabled)).await?;
        Ok(())
    }

    /// The right to claim. Claims are one at a time, so that nothing is given twice: it is held until the row says what was
    /// claimed. What Placement has been told is known by then, if it answered.
    pub async fn claiming(&self) -> AsyncMutexGuard<'_, ()> {
        let first_report = async {
            if !self.told().iter().all(BTreeMap::is_empty) {
                return;
            }
            let reported = timeout(FIRST_REPORT_TIMEOUT, self.report()).await;
            let reported = reported.unwrap_or(Err(Error::NoAnswer("Placement or the database")));
            if let Err(e) = reported {
                tracing::warn!(error = %e, "Placement's allocation ratios are not known yet: those of this host's options count");
            }
        };
        self.first_report.get_or_init(|| first_report).await;
        self.claims.lock().await
    }

    /// Refuses what a container is `asked` to have beyond what it `had`, if the host has not that much for containers. The same
    /// bounds as in Placement: what is reserved is no container's, and what is left is given out several times over.
    pub async fn claim(&self, container: ContainerUuid, had: Usage, asked: Usage) -> Result<()> {
        let others = Container::list_by_host(&self.database, &OWNERS, &self.options.default.host).await?;
        let others = others.iter().filter(|other| other.uuid != container).map(Container::usage);
        let (mut cpus, mut memory) = (f64::from(asked.cpu), i64::from(asked.memory));
        for other in others {
            cpus += f64::from(other.cpu);
            memory += i64::from(other.memory);
        }
        let room = self.room();
        let room = |class| most(&room, class);
        let lacking = [
            shortage("VCPU", cpus, room(ResourceClass::Vcpu), asked.cpu > had.cpu),
            shortage("MB of memory", memory as f64, room(ResourceClass::MemoryMb), asked.memory > had.memory),
        ];
        let lacking: Vec<_> = lacking.into_iter().flatten().collect();
        if lacking.is_empty() { Ok(()) } else { Err(Error::Resources(lacking.join("; "))) }
    }

    /// Gives a container CPUs of its own, unless it has them already. The caller has the right to claim.
    pub fn pin(&self, container: &Container) -> Result<()> {
        if !self.options.compute.enable_cpu_pinning {
            let reason = "dedicated: [compute] enable_cpu_pinning is not set on this host";
            return Err(Error::invalid("cpu_policy", reason));
        }
        if self.pins.get(container.uuid).is_none() {
            let chosen = pins::choose(&self.pins.topology(&self.options)?, container)?;
            let memory = u64::try_from(container.usage().memory).unwrap_or(0);
            self.pins.insert(container.uuid, chosen, memory);
        }
        Ok(())
    }

    /// What Placement has been told lately.
    fn room(&self) -> [BTreeMap<ResourceClass, Inventory>; 2] {
        let told = self.told();
        let nothing = BTreeMap::new();
        if told.iter().all(BTreeMap::is_empty) {
            return [inventories(&self.options, &nothing, 0), nothing];
        }
        told
    }

    fn told(&self) -> [BTreeMap<ResourceClass, Inventory>; 2] {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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

/// Says what there is not enough of. Whoever takes no more of it than before lacks nothing.
fn shortage(what: &str, taken: f64, room: f64, takes_more: bool) -> Option<String> {
    (takes_more && taken > room).then(|| format!("{taken} {what} would be taken of {room}"))
}

/// The most of a class that Placement has let be allocated lately: what was scheduled before it was told of less still fits.
fn most(told: &[BTreeMap<ResourceClass, Inventory>; 2], class: ResourceClass) -> f64 {
    told.iter().filter_map(|inventories| inventories.get(&class)).map(capacity).fold(0.0, f64::max)
}

/// What Placement lets be allocated.
fn capacity(inventory: &Inventory) -> f64 {
    inventory.total.saturating_sub(inventory.reserved) as f64 * f64::from(inventory.allocation_ratio)
}

/// What a host offers: what it has, without what is kept for itself, given out several times over. An allocation ratio is the
/// operator's option, or else what somebody has set in Placement, or else the option's initial value
/// (`zun/container/driver.py`, `_get_allocation_ratios`). Each sandbox takes memory of its own, which Placement is told as
/// reserved: so what it schedules fits.
fn inventories(
    options: &Options,
    known: &BTreeMap<ResourceClass, Inventory>,
    sandboxes: usize,
) -> BTreeMap<ResourceClass, Inventory> {
    let compute = &options.compute;
    let overhead = options.kata.memory_overhead.saturating_mul(sandboxes as u64);
    let inventory = |class, total: u64, reserved: u64, ratio: Option<f32>, initial: f32| {
        let ratio = ratio.filter(|ratio| *ratio > 0.0);
        let ratio = ratio.or(known.get(&class).map(|known: &Inventory| known.allocation_ratio));
        let reserved = reserved.min(total.saturating_sub(1));
        let allocation_ratio = ratio.unwrap_or(initial);
        (class, Inventory { total, reserved, min_unit: 1, max_unit: total, step_size: 1, allocation_ratio })
    };
    let all = [
        inventory(
            ResourceClass::Vcpu,
            u64::from(host_facts::cpus()),
            compute.reserved_host_cpus,
            compute.cpu_allocation_ratio,
            compute.initial_cpu_allocation_ratio,
        ),
        inventory(
            ResourceClass::MemoryMb,
            host_facts::memory().total,
            compute.reserved_host_memory_mb.saturating_add(overhead),
            compute.ram_allocation_ratio,
            compute.initial_ram_allocation_ratio,
        ),
        inventory(
            ResourceClass::DiskGb,
            disk_gib(options),
            compute.reserved_host_disk_mb.div_ceil(1024),
            compute.disk_allocation_ratio,
            compute.initial_disk_allocation_ratio,
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
    fn a_ratio_is_the_operators_or_placements_and_sandboxes_count() {
        let mut options = Options::default();
        options.compute.cpu_allocation_ratio = Some(0.0);
        let nothing = BTreeMap::new();
        let first = inventories(&options, &nothing, 0);
        let mut known = first.clone();
        let Some(memory) = known.get_mut(&ResourceClass::MemoryMb) else { return };
        memory.allocation_ratio = 1.25;
        let again = inventories(&options, &known, 3);
        let of = |class| (&first[&class], &again[&class]);
        let (before, after) = of(ResourceClass::MemoryMb);
        assert_eq!(after.allocation_ratio, 1.25, "somebody has set it in Placement");
        assert_eq!(after.reserved, before.reserved + 3 * options.kata.memory_overhead);
        assert_eq!(of(ResourceClass::Vcpu).0.allocation_ratio, options.compute.initial_cpu_allocation_ratio);
        options.compute.ram_allocation_ratio = Some(2.0);
        assert_eq!(inventories(&options, &known, 0)[&ResourceClass::MemoryMb].allocation_ratio, 2.0);
    }

    #[test]
    fn what_was_scheduled_before_sandboxes_were_reported_fits() {
        let options = Options::default();
        let nothing = BTreeMap::new();
        let reported = |sandboxes| inventories(&options, &nothing, sandboxes);
        let of = |told: &BTreeMap<_, _>| told.get(&ResourceClass::MemoryMb).map_or(0.0, capacity);
        let (before, after) = (reported(0), reported(3));
        assert!(of(&after) < of(&before));
        let scheduled = of(&before);
        assert_eq!(most(&[after.clone(), before], ResourceClass::MemoryMb), scheduled);
        assert_eq!(most(&[after.clone(), nothing.clone()], ResourceClass::MemoryMb), of(&after));
    }

    #[test]
    fn only_who_takes_more_can_lack_something() {
        assert_eq!(shortage("VCPU", 17.0, 16.0, true).unwrap(), "17 VCPU would be taken of 16");
        assert_eq!(shortage("VCPU", 16.0, 16.0, true), None);
        assert_eq!(shortage("VCPU", 17.0, 16.0, false), None, "the host shrank");
    }
}
