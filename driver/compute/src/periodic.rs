//! What is done from time to time, each thing by a task of its own that waits for no other: the heartbeat above all.

use std::sync::Arc;
use std::time::Duration;

use model::Database;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::Instrument;

use crate::belongings::GiveBack;
use crate::containers::{Core, background_span, synchronise};
use crate::error::{Error, Result};
use crate::images::{Images, admin};
use crate::interfaces::{self, Interfaces};
use crate::options::Options;
use crate::resources::Resources;
use crate::rows::Rows;
use crate::service::beat;
use crate::zun::Zun;
use crate::zun::provisioner::port_owner_of;

/// Between two looks for images that nobody uses.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(600);
/// Between two tries to give back what a deleted container has left.
const DEBTS_INTERVAL: Duration = Duration::from_secs(60);
/// Some of Zun's periods are maxima; ours are no longer than this.
const REPORT_MAX: Duration = Duration::from_secs(60);
/// Longest run of a task: one that takes longer is given up, and done anew when it is due.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Starts them all.
#[allow(clippy::too_many_arguments)]
pub fn start(
    options: &Arc<Options>,
    beats: Database,
    core: &Arc<Core<Zun>>,
    resources: &Resources,
    give_back: &GiveBack,
    interfaces: &Interfaces,
    images: &Images,
    stop: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let report = Duration::from_secs(options.default.periodic_interval_max.max(1)).min(REPORT_MAX);
    let mut every = |name, period, work: Work| tasks.spawn(repeat(name, period, stop.clone(), work));

    let of = Arc::clone(options);
    every(
        "the heartbeat",
        report,
        work(move || {
            let (beats, options) = (beats.clone(), Arc::clone(&of));
            async move { Ok(beat(&beats, &options).await?) }
        }),
    );
    let of = resources.clone();
    every(
        "the report of resources",
        report,
        work(move || {
            let resources = of.clone();
            async move {
                give_memory_back();
                resources.report().await
            }
        }),
    );
    if let Some(period) = options.default.sync_interval(report) {
        let of = Arc::clone(core);
        every(
            "the comparison of states",
            period,
            work(move || {
                let core = Arc::clone(&of);
                async move { synchronise(&core).await }
            }),
        );
        let (of, with) = (Arc::clone(core), interfaces.clone());
        every("the comparison of ports", period, work(move || follow_ports(Arc::clone(&of), with.clone())));
    }
    let of = give_back.clone();
    every(
        "the return of what deleted containers had",
        DEBTS_INTERVAL,
        work(move || {
            let give_back = of.clone();
            async move { give_back.pay(port_owner_of).await }
        }),
    );
    let of = images.clone();
    every(
        "the removal of images",
        COLLECTION_INTERVAL,
        work(move || {
            let images = of.clone();
            async move {
                let collected = tokio::task::spawn_blocking(move || admin::collect(&images)).await;
                collected.map_err(|e| Error::Conflict(e.to_string()))?
            }
        }),
    );
    tasks
}

type Work = Box<dyn Fn() -> futures::future::BoxFuture<'static, Result<()>> + Send + Sync>;

fn work<F: Future<Output = Result<()>> + Send + 'static>(
    run: impl Fn() -> F + Send + Sync + 'static,
) -> Work {
    Box::new(move || Box::pin(run()))
}

/// Runs a task at each tick until the service stops. It does not overlap with itself.
async fn repeat(name: &'static str, period: Duration, mut stop: watch::Receiver<bool>, work: Work) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        match timeout(RUN_MAX, work()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(task = name, error = %e, "a periodic task failed"),
            Err(_) => {
                tracing::error!(task = name, "a periodic task took longer than {} s", RUN_MAX.as_secs())
            }
        }
    }
}

/// Lets each container whose ports have changed follow them, in its turn. One on which somebody works is left for the next time.
async fn follow_ports(core: Arc<Core<Zun>>, interfaces: Interfaces) -> Result<()> {
    for uuid in interfaces.differing().await? {
        let Some(turn) = core.turns.if_idle(uuid) else { continue };
        let (core, interfaces) = (Arc::clone(&core), interfaces.clone());
        let follow = async move {
            let _turn = turn;
            if let Err(e) = follow_one(&core, &interfaces, uuid).await {
                tracing::error!(error = %e, "changes of ports are not followed");
            }
        };
        tokio::spawn(follow.instrument(background_span(uuid)));
    }
    Ok(())
}

async fn follow_one(core: &Core<Zun>, interfaces: &Interfaces, uuid: model::ContainerUuid) -> Result<()> {
    let Some(mut row) = core.executor.rows().find(uuid).await? else { return Ok(()) };
    if row.task_state.is_some() || row.host.as_deref() != Some(interfaces.engine.hostname()) {
        return Ok(());
    }
    match interfaces::follow_changes(interfaces, uuid).await? {
        Some(changes) => core.executor.rows().save(&mut row, changes).await,
        None => Ok(()),
    }
}

/// What a burst of requests took, and is free again, goes back to the host.
fn give_memory_back() {
    // SAFETY: it only looks at the allocator's own lists, under the allocator's own locks.
    unsafe { nix::libc::malloc_trim(0) };
}
