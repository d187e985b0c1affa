//! What is done from time to time, each thing by a task of its own that waits for no other: the heartbeat above all.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use model::{ContainerUuid, Database};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::Instrument;

use crate::belongings::GiveBack;
use crate::containers::{Core, background_span, synchronise};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::heartbeat::beat;
use crate::images::{Images, admin};
use crate::interfaces::{self, Interfaces};
use crate::options::Options;
use crate::resources::Resources;
use crate::rows::Rows;
use crate::stray_allocations::StrayAllocations;
use crate::zun::Zun;
use crate::zun::provisioner::{port_owner, port_owner_of};

/// Between two looks for images that nobody uses.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(600);
/// Between two looks for allocations that nobody has.
const ALLOCATIONS_INTERVAL: Duration = Duration::from_secs(60);
/// Between two tries to pay debts.
const DEBTS_INTERVAL: Duration = Duration::from_secs(60);
/// Heartbeat and report come at least this often, whatever `periodic_interval_max` says.
const REPORT_MAX: Duration = Duration::from_secs(60);
/// Longest run of a task: one that takes longer is given up, and done anew when it is due. A collection of images goes on beside
/// the next.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Containers on which a task works at one time: each asks other services, and after an outage all may have work.
const CONTAINERS_AT_ONCE: usize = 16;

type Slots = Arc<Semaphore>;

/// Whom the tasks are for.
pub struct Periodic {
    /// The options.
    pub options: Arc<Options>,
    /// A connection for the heartbeat alone.
    pub beats: Database,
    /// The lives of containers.
    pub core: Arc<Core<Zun>>,
    /// What this host has.
    pub resources: Resources,
    /// What containers give back.
    pub give_back: GiveBack,
    /// The interfaces of containers.
    pub interfaces: Interfaces,
    /// Images.
    pub images: Images,
    /// What containers that are nowhere any more have left in Placement.
    pub stray_allocations: Arc<StrayAllocations>,
}

impl Periodic {
    /// Starts them all. They end when the service stops, or with what is returned.
    pub fn start(self, stop: &watch::Receiver<bool>) -> JoinSet<()> {
        let tasks = Arc::new(self);
        let default = &tasks.options.default;
        let report = Duration::from_secs(default.periodic_interval_max.max(1)).min(REPORT_MAX);
        let compare = default.sync_interval(report);
        let all: [(Task, Option<Duration>); 7] = [
            (Task::Heartbeat, Some(report)),
            (Task::Report, Some(report)),
            (Task::States, compare),
            (Task::Ports, compare),
            (Task::Debts, Some(DEBTS_INTERVAL)),
            (Task::Allocations, Some(ALLOCATIONS_INTERVAL)),
            (Task::Images, Some(COLLECTION_INTERVAL)),
        ];
        let mut running = JoinSet::new();
        for (task, period) in all {
            if let Some(period) = period {
                running.spawn(repeat(Arc::clone(&tasks), task, period, stop.clone()));
            }
        }
        running
    }

    async fn run(&self, task: Task, slots: &Slots) -> Result<()> {
        match task {
            Task::Heartbeat => Ok(beat(&self.beats, &self.options).await?),
            Task::Report => {
                give_memory_back();
                self.resources.report().await
            }
            Task::States => synchronise(&self.core).await,
            Task::Ports => follow_ports(&self.core, &self.interfaces, slots).await,
            Task::Debts => pay_debts(&self.core, &self.give_back, slots).await,
            Task::Allocations => give_back_allocations(&self.core, &self.stray_allocations, slots).await,
            Task::Images => {
                let images = self.images.clone();
                let collected = tokio::task::spawn_blocking(move || admin::collect(&images)).await;
                collected.map_err(|e| Error::Conflict(e.to_string()))?
            }
        }
    }
}

/// What is done from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// This service says that it is alive.
    Heartbeat,
    /// It tells what this host has.
    Report,
    /// Rows are compared with sandboxes.
    States,
    /// Ports are compared with what guests know.
    Ports,
    /// Debts are paid.
    Debts,
    /// Allocations that nobody has are given back.
    Allocations,
    /// Images that nobody uses are removed.
    Images,
}

/// Runs a task at each tick until the service stops. It does not overlap with itself.
async fn repeat(tasks: Arc<Periodic>, task: Task, period: Duration, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONTAINERS_AT_ONCE));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        match timeout(RUN_MAX, tasks.run(task, &slots)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(?task, error = %e, "a periodic task failed"),
            Err(_) => tracing::error!(?task, "a periodic task took longer than {} s", RUN_MAX.as_secs()),
        }
    }
}

/// Lets each container whose ports have changed follow them.
async fn follow_ports(core: &Arc<Core<Zun>>, interfaces: &Interfaces, slots: &Slots) -> Result<()> {
    for uuid in shuffled(interfaces.differing().await?) {
        let (its_core, interfaces) = (Arc::clone(core), interfaces.clone());
        let follow = async move { follow_one(&its_core, &interfaces, uuid).await };
        in_turn(core, slots, uuid, "changes of ports are not followed", follow).await;
    }
    Ok(())
}

async fn follow_one(core: &Core<Zun>, interfaces: &Interfaces, uuid: ContainerUuid) -> Result<()> {
    let Some(mut row) = core.executor.rows().find(uuid).await? else { return Ok(()) };
    if row.task_state.is_some() || row.host.as_deref() != Some(interfaces.engine.hostname()) {
        return Ok(());
    }
    match interfaces::follow_changes(interfaces, uuid, &port_owner(&row)).await? {
        Some((record, changes)) => {
            // What is interrupted before the record has it is followed again.
            core.executor.write(&mut row, changes).await;
            interfaces.engine.write_record(uuid, &record)
        }
        None => Ok(()),
    }
}

/// Pays each debt. While a row of the container names a host, its debt waits.
async fn pay_debts(core: &Arc<Core<Zun>>, give_back: &GiveBack, slots: &Slots) -> Result<()> {
    for uuid in shuffled(give_back.debts().containers()?) {
        let (its_core, give_back) = (Arc::clone(core), give_back.clone());
        let pay = async move {
            // It may have been paid, or have grown, before this turn.
            let Some(debt) = give_back.debts().find(uuid)? else { return Ok(()) };
            match its_core.executor.rows().find(uuid).await? {
                Some(row) if row.host.is_some() => Ok(()),
                _ => give_back.pay(debt, port_owner_of(uuid)).await,
            }
        };
        in_turn(core, slots, uuid, "what a container has left is not given back", pay).await;
    }
    Ok(())
}

/// Gives back what containers that are nowhere any more have left in Placement.
async fn give_back_allocations(
    core: &Arc<Core<Zun>>,
    allocations: &Arc<StrayAllocations>,
    slots: &Slots,
) -> Result<()> {
    for uuid in allocations.find().await? {
        let allocations = Arc::clone(allocations);
        let give_back = async move { allocations.give_back(uuid).await };
        in_turn(core, slots, uuid, "an allocation is left behind in Placement", give_back).await;
    }
    Ok(())
}

/// A new order on each run, so that slow containers do not always keep the same others waiting.
fn shuffled(containers: Vec<ContainerUuid>) -> HashSet<ContainerUuid> {
    containers.into_iter().collect()
}

/// Begins work on a container in its turn, and waits only for a slot. A container on which somebody works is
/// left for the next time.
async fn in_turn(
    core: &Core<Zun>,
    slots: &Slots,
    uuid: ContainerUuid,
    failure: &'static str,
    work: impl Future<Output = Result<()>> + Send + 'static,
) {
    let slot = Arc::clone(slots).acquire_owned().await;
    let Some(turn) = core.turns.if_idle(uuid) else { return };
    let work = async move {
        if let Err(e) = work.await {
            tracing::error!(error = %e, "{failure}");
        }
        drop((turn, slot));
    };
    tokio::spawn(work.instrument(background_span(uuid)));
}

/// What a burst of requests took, and is free again, goes back to the host.
fn give_memory_back() {
    // SAFETY: it only looks at the allocator's own lists, under the allocator's own locks.
    unsafe { nix::libc::malloc_trim(0) };
}
