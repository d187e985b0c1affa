//! Faults in random order, for as long as is asked for, while tenants go on: nothing is lost, nothing is left, and a neighbour
//! whom nobody touches does not notice. `CHAOS_MINUTES` and `CHAOS_SEED` say how long, and which choices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod neighbour;
mod operations;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloud_tests::cloud::{Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::random::{self, Random};
use cloud_tests::tenant::Tenant;
use neighbour::Neighbour;
use operations::Asked;
use report::{Came, Report};

const MINUTES: u64 = 10;
const TENANTS: u64 = 2;
/// Seconds that a fault may take until all is served again, its own time included.
const MEND_LIMIT: u64 = 300;
/// Seconds that operations may take to settle after the last fault.
const SETTLE_LIMIT: u64 = 300;
/// Seconds until the service has looked twice for allocations that nobody has.
const LOOKS_LIMIT: u64 = 200;
const NOBODYS_ALLOCATIONS: &str =
    "SELECT consumer_id FROM placement.allocations WHERE consumer_id NOT IN (SELECT uuid FROM zun.container)";
/// Seconds for which the neighbour's process may stand still. A lab's one processor is emulated.
const PAUSE_LIMIT: f64 = 20.0;

fn asked_for(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run chaos brings it up"]
fn whatever_fails_nothing_is_lost_and_nothing_left() {
    let minutes = asked_for("CHAOS_MINUTES", MINUTES);
    let seed = asked_for("CHAOS_SEED", random::seed());
    in_cloud(|cloud| {
        let network = cloud.network("10.90.0.0/24");
        cloud.openstack(&["network", "set", "--share", &network.name]).ok();
        let tenant = Tenant::new(cloud, "untouched");
        let neighbour = Neighbour::move_in(cloud, &tenant, &network.name);
        let report = run(cloud, &neighbour, Duration::from_secs(minutes * 60), seed);
        println!("{report}");
        assert!(report.longest_pause < PAUSE_LIMIT, "the neighbour stood still");
        cloud.delete(&neighbour.uuid);
    });
}

/// Says that it is over when this goes, for whatever reason: threads that wait for it would keep a test from its end.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn run(cloud: &Cloud, neighbour: &Neighbour<'_>, time: Duration, seed: u64) -> Report {
    let over = AtomicBool::new(false);
    let (faults, asked, seen) = thread::scope(|scope| {
        let tenants: Vec<_> = (1..=TENANTS)
            .map(|number| {
                scope.spawn({
                    let over = &over;
                    let name = format!("chaos-{seed}-{number}");
                    move || operations::ask(cloud, &name, Random::of(seed + number), over)
                })
            })
            .collect();
        let watch = scope.spawn(|| neighbour.watch(&over));
        let until = Until(&over);
        let faults = befall(cloud, neighbour, time, seed);
        drop(until);
        let asked: Vec<Asked> = tenants.into_iter().map(|tenant| tenant.join().unwrap()).collect();
        (faults, asked, watch.join().unwrap())
    });
    let containers = containers(cloud, &asked, seed);
    let mut ends = BTreeMap::new();
    for uuid in &containers {
        let end = eventually(SETTLE_LIMIT, &format!("container {uuid} is settled"), || cloud.settled(uuid));
        assert_consistent(cloud, uuid, &end);
        *ends.entry(end).or_default() += 1;
    }
    let without_end = actions_without_end(cloud, &containers);
    for uuid in &containers {
        remove(cloud, uuid);
    }
    eventually(LOOKS_LIMIT, "what lost creations have allocated is given back", || {
        match cloud.sql(NOBODYS_ALLOCATIONS) {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        }
    });
    let longest_pause = neighbour.longest_pause();
    Report { seed, faults, containers: containers.len(), asked, ends, without_end, seen, longest_pause }
}

/// All that were asked for: those of which the tenants were told, and those whose creation was not answered.
fn containers(cloud: &Cloud, asked: &[Asked], seed: u64) -> BTreeSet<String> {
    let there = cloud.sql(&format!("SELECT uuid FROM zun.container WHERE name LIKE 'chaos-{seed}-%'"));
    let there = there.lines().map(str::to_owned);
    asked.iter().flat_map(|asked| asked.containers.clone()).chain(there).collect()
}

/// Zun deletes no container that is paused.
fn remove(cloud: &Cloud, uuid: &str) {
    match cloud.settled(uuid).as_deref() {
        Ok("gone") => return,
        Ok("Paused") => cloud.act(&["unpause"], uuid, "Running"),
        _ => {}
    }
    cloud.delete(uuid);
}

/// One fault after another, each once before any comes again.
fn befall(cloud: &Cloud, neighbour: &Neighbour<'_>, time: Duration, seed: u64) -> Vec<Came> {
    let (began, mut random) = (Instant::now(), Random::of(seed));
    let mut came = Vec::new();
    while began.elapsed() < time {
        let mut order = faults::ALL;
        random.shuffle(&mut order);
        for fault in order {
            if began.elapsed() > time {
                break;
            }
            let at = Instant::now();
            println!("{:>5} s: {}", began.elapsed().as_secs(), fault.name);
            if !fault.befall(cloud, &mut random, &neighbour.uuid) {
                println!("         there was nothing that it could befall");
                continue;
            }
            eventually(MEND_LIMIT, &format!("all is served again after {}", fault.name), || {
                if neighbour.is_answered() {
                    Ok(())
                } else {
                    Err(cloud.settled(&neighbour.uuid).unwrap_or_else(|e| e))
                }
            });
            came.push(Came { name: fault.name, at, mended_after: at.elapsed() });
        }
    }
    came
}

/// What runs has a guest that answers, and what does not has none.
fn assert_consistent(cloud: &Cloud, uuid: &str, status: &str) {
    let lives = matches!(status, "Running" | "Paused");
    assert_eq!(cloud.shims_of(uuid), usize::from(lives), "{uuid}: {status}");
    if status == "Running" {
        assert_eq!(cloud.openstack(&["appcontainer", "exec", uuid, "true"]).status, 0, "{uuid}");
    }
}

/// A message that the broker lost, or that waited in a service that was killed, has none.
fn actions_without_end(cloud: &Cloud, containers: &BTreeSet<String>) -> usize {
    let uuids = containers.iter().map(|uuid| format!("'{uuid}'")).collect::<Vec<_>>().join(", ");
    let query = format!(
        "SELECT COUNT(*) FROM zun.container_actions WHERE finish_time IS NULL AND container_uuid IN ({uuids}, '')"
    );
    cloud.sql(&query).parse().unwrap()
}
