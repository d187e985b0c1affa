//! One tenant stalls all that it has, and another is served as if it were alone.

use std::time::Duration;

use model::Status;
use tokio::time::{Instant, sleep};

use super::world::FakeWorld;
use super::{FOR_EVER, Simulation, uuid};
use crate::containers::{Lifecycle, Thoroughness, inspect};

/// One tenant stalls all that it has; another's container is made, started, looked at and deleted meanwhile.
async fn beside_stalled(stalled: u64) -> Duration {
    const STOPS_EACH: u64 = 16;
    let mut simulation = Simulation::start(FakeWorld::new(7)).await;
    let (stallers, neighbour) = ((0..stalled).map(uuid).collect::<Vec<_>>(), uuid(1_000));
    for staller in &stallers {
        let created = simulation.creation(*staller);
        simulation.submit(*staller, created);
    }
    while simulation.under_way.join_next().await.is_some() {}
    for staller in &stallers {
        if let Some(run) =
            simulation.world.state().sandboxes.get_mut(staller).and_then(|one| one.run.as_mut())
        {
            (run.ignores_term, run.ends) = (true, None);
        }
        for _ in 0..STOPS_EACH {
            simulation.submit(*staller, Lifecycle::Stop { grace: FOR_EVER });
        }
    }
    let began = Instant::now();
    let created = simulation.creation(neighbour);
    simulation.submit(neighbour, created);
    simulation.wait_for(neighbour, Status::Running).await;
    let row = simulation.world.state().rows[&neighbour].clone();
    assert_eq!(inspect::show(&simulation.core, row).await.unwrap().status, Status::Running);
    simulation.submit(neighbour, Lifecycle::Delete(Thoroughness::All));
    while simulation.world.state().rows.contains_key(&neighbour) {
        sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed();
    assert!(
        !stallers.iter().any(|staller| simulation.core.turns.if_idle(*staller).is_some()),
        "they are stalled"
    );
    took
}

#[test]
fn no_tenants_delay_grows_with_what_another_stalls() {
    /// The longest that a creation, a start and a deletion take in this world by themselves.
    const ALONE_MAX: Duration = Duration::from_secs(40);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    for stalled in [0, 7, 64] {
        let took = runtime().unwrap().block_on(beside_stalled(stalled));
        assert!(
            took < ALONE_MAX,
            "beside {stalled} containers, {} operations stalled: {took:?}",
            stalled * 16
        );
    }
}
