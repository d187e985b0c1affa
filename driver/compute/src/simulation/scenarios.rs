//! What the service does in the simulated world where nothing else goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use model::Status;
use tokio::time::{sleep, timeout};

use super::fakes::HOST;
use super::world::{FakeSandbox, FakeWorld};
use super::{Simulation, row, uuid};
use crate::containers::{Recovery, inspect, outlived_names, refuse_creation};
use crate::creations::{Creations, Taken};
use crate::host_names::HostNames;
use crate::lifecycle::{Event, SIGTERM};

const FORMER: &str = "former";
const OTHER: &str = "other";

#[tokio::test(start_paused = true)]
async fn a_container_is_taken_over_from_a_former_name_and_from_no_live_host() {
    let names = HostNames { now: HOST.into(), former: BTreeSet::from([FORMER.into()]) };
    // The row's host, whether that is served, and whether its sandbox is here; whether it is this host's, and an orphan.
    let cases = [
        (Some(HOST), false, true, true, false),
        (Some(HOST), false, false, true, false),
        (Some(FORMER), false, true, true, false),
        (Some(FORMER), false, false, true, false),
        (Some(FORMER), true, true, true, false),
        (Some(FORMER), true, false, false, false),
        (Some(OTHER), false, true, true, false),
        (Some(OTHER), false, false, false, false),
        (Some(OTHER), true, true, false, false),
        (Some(OTHER), true, false, false, false),
    ];
    for (host, is_served, is_here, is_ours, is_orphan) in cases {
        let simulation = Simulation::start(FakeWorld::new(1)).await;
        let container = uuid(1);
        {
            let mut state = simulation.world.state();
            let mut row = row(container, false, false, false);
            row.host = host.map(str::to_owned);
            state.rows.insert(container, row);
            if is_here {
                let record = Some(FakeWorld::new_record(&state.rows[&container]));
                state.sandboxes.insert(container, FakeSandbox { record, ..FakeSandbox::default() });
            }
            state.served.extend(host.filter(|_| is_served).map(str::to_owned));
        }
        let found = Recovery::begin(&simulation.core, &names).await.unwrap();
        let what = format!("{host:?}, served: {is_served}, here: {is_here}");
        assert_eq!(found.containers().contains(&container), is_ours, "{what}");
        assert_eq!(found.orphans.contains(&container), is_orphan, "{what}");
        drop(found);
        // What was left to a live host is looked at again once it no longer is one.
        simulation.world.state().served.clear();
        let later = Recovery::of_other_names(&simulation.core, &names).await.unwrap();
        let is_ours_later = host != Some(HOST) && (is_here || host == Some(FORMER));
        assert_eq!(later.containers().contains(&container), is_ours_later, "{what}, later");
    }
}

#[tokio::test(start_paused = true)]
async fn a_former_name_is_forgotten_once_nothing_is_left_of_it_or_another_host_has_it() {
    let names = HostNames { now: HOST.into(), former: BTreeSet::from([FORMER.into()]) };
    // Whether it is served, whether a row names it, and whether that row's sandbox is here; whether it is forgotten.
    let cases = [
        (false, false, false, true),
        (false, true, false, false),
        (false, true, true, false),
        (true, true, false, true),
        (true, true, true, false),
    ];
    for (is_served, has_row, is_here, is_forgotten) in cases {
        let simulation = Simulation::start(FakeWorld::new(1)).await;
        {
            let mut state = simulation.world.state();
            let mut row = row(uuid(1), false, false, false);
            row.host = Some(FORMER.into());
            if is_here {
                let record = Some(FakeWorld::new_record(&row));
                state.sandboxes.insert(uuid(1), FakeSandbox { record, ..FakeSandbox::default() });
            }
            state.rows.extend(has_row.then_some((uuid(1), row)));
            state.served.extend(is_served.then(|| FORMER.to_owned()));
        }
        let outlived = outlived_names(&simulation.core, &names).await.unwrap();
        let what = format!("served: {is_served}, row: {has_row}, here: {is_here}");
        assert_eq!(outlived.contains(&FORMER.to_owned()), is_forgotten, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_without_a_row_is_an_orphan_and_stays() {
    let simulation = Simulation::start(FakeWorld::new(1)).await;
    let (container, names) = (uuid(1), HostNames { now: HOST.into(), former: BTreeSet::new() });
    let record = Some(FakeWorld::new_record(&row(container, false, false, false)));
    simulation.world.state().sandboxes.insert(container, FakeSandbox { record, ..FakeSandbox::default() });
    let found = Recovery::begin(&simulation.core, &names).await.unwrap();
    assert_eq!((found.containers(), found.orphans), (Vec::new(), vec![container]));
    assert!(simulation.world.state().sandboxes.contains_key(&container));
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_refused_gives_back_what_the_scheduler_allocated() {
    let simulation = Simulation::start(FakeWorld::new(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let creations = Creations::open(folder.path().to_owned()).unwrap();
    let (container, deleted) = (uuid(1), uuid(2));
    {
        let mut state = simulation.world.state();
        state.rows.insert(container, row(container, false, false, false));
        state.allocations.extend([container, deleted]);
    }
    // Nor is anything kept of one that its user has deleted meanwhile.
    for uuid in [container, deleted] {
        let taken = Taken { uuid, project: "p".into(), volumes: Vec::new() };
        creations.remember(taken.clone()).await;
        refuse_creation(&simulation.core, &creations, &taken, "too many").await;
    }
    assert!(creations.left().unwrap().is_empty());
    let state = simulation.world.state();
    assert!(state.allocations.is_empty());
    let row = &state.rows[&container];
    assert_eq!((row.status, row.status_reason.as_deref()), (Status::Error, Some("too many")));
}

#[tokio::test(start_paused = true)]
async fn a_refused_creation_says_so_while_others_are_given_back() {
    let simulation = Simulation::start(FakeWorld::new(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let creations = Creations::open(folder.path().to_owned()).unwrap();
    let container = uuid(1);
    {
        let mut state = simulation.world.state();
        state.rows.insert(container, row(container, false, false, false));
        state.allocations.insert(container);
    }
    let mut places = Vec::new();
    while let Ok(place) = timeout(Duration::from_secs(1), creations.refusal("p")).await {
        places.push(place);
    }
    let taken = Taken { uuid: container, project: "p".into(), volumes: Vec::new() };
    let refuse = refuse_creation(&simulation.core, &creations, &taken, "too many");
    // The service ends before there is a place.
    assert!(timeout(Duration::from_secs(600), refuse).await.is_err());
    assert_eq!(simulation.world.state().rows[&container].status, Status::Error);
    assert!(simulation.world.state().allocations.contains(&container));
    drop(places);
    refuse_creation(&simulation.core, &creations, &taken, "interrupted").await;
    let state = simulation.world.state();
    assert!(state.allocations.is_empty());
    assert_eq!(state.rows[&container].status_reason.as_deref(), Some("too many"));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_signal_is_sent_again_as_what_it_was() {
    const SIGHUP: u32 = 1;
    let cases = [
        (Some(SIGHUP), false, Status::Running),
        (None, false, Status::Stopped),
        (Some(SIGTERM), true, Status::Stopped),
    ];
    for (signal, has_ended, status) in cases {
        let mut simulation = Simulation::start(FakeWorld::new(1)).await;
        let container = uuid(1);
        let created = simulation.creation(container);
        simulation.submit(container, created);
        while simulation.under_way.join_next().await.is_some() {}
        {
            let mut state = simulation.world.state();
            state.rows.get_mut(&container).unwrap().task_state = Some("container_killing".into());
            let sandbox = state.sandboxes.get_mut(&container).unwrap();
            let record = sandbox.record.as_mut().unwrap();
            (record.signal, record.is_stopped) = (signal, signal == Some(SIGTERM));
            let run = sandbox.run.as_mut().unwrap();
            (run.ignores_term, run.ends) = (true, None);
            if has_ended {
                state.kill(container);
            }
        }
        simulation.die().await;
        let _turn = simulation.core.turns.internal(container).await;
        let state = simulation.world.state();
        let row = &state.rows[&container];
        assert_eq!((row.task_state.as_deref(), row.status), (None, status), "{signal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_writes_nothing() {
    let mut simulation = Simulation::start(FakeWorld::new(1)).await;
    let container = uuid(1);
    let created = simulation.creation(container);
    simulation.submit(container, created);
    while simulation.under_way.join_next().await.is_some() {}
    let all =
        [Status::Running, Status::Paused, Status::Created, Status::Stopped, Status::Error, Status::Deleting];
    for status in all {
        simulation.world.state().rows.get_mut(&container).unwrap().status = status;
        let (row, before) = {
            let state = simulation.world.state();
            (state.rows[&container].clone(), state.saves)
        };
        inspect::show(&simulation.core, row).await.unwrap();
        assert_eq!(simulation.world.state().saves, before, "{status}");
        // What differs is followed by itself, in the container's turn.
        let _turn = simulation.core.turns.internal(container).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_health_is_written_for_what_runs_only() {
    let simulation = Simulation::start(FakeWorld::new(1)).await;
    let container = uuid(1);
    {
        let mut state = simulation.world.state();
        let mut row = row(container, false, false, false);
        (row.status, row.host) = (Status::Stopped, Some(HOST.into()));
        let record = Some(FakeWorld::new_record(&row));
        state.sandboxes.insert(container, FakeSandbox { record, ..FakeSandbox::default() });
        state.rows.insert(container, row);
    }
    simulation.core.tell(container, Event::HealthChanged);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(simulation.world.state().saves, 0);
}
