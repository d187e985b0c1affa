//! What a tenant asks of his own containers meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cloud_tests::cloud::{BUSYBOX, Cloud};
use cloud_tests::random::Random;
use serde_json::Value;

/// Containers that one tenant has at one time.
const CONTAINERS: usize = 2;
/// How long an operation is waited for before the next is asked for.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_secs(1);

const VERBS: [&[&str]; 9] = [
    &["start"],
    &["stop", "--timeout", "1"],
    &["kill"],
    &["restart", "--timeout", "1"],
    &["pause"],
    &["unpause"],
    &["rebuild"],
    &["exec"],
    &["delete", "--force"],
];

/// What was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Operations, and those of them that were refused or not answered: as the container's state or a fault would have it.
    pub operations: usize,
    /// Those that were refused.
    pub refused: usize,
    /// Containers of which he was told.
    pub containers: Vec<String>,
}

/// Asks for one thing after another until it is over. The tenant's containers are called `name` and a number.
pub fn ask(cloud: &Cloud, name: &str, mut random: Random, is_over: &AtomicBool) -> Asked {
    let (mut asked, mut own) = (Asked::default(), Vec::new());
    while !is_over.load(Ordering::SeqCst) {
        asked.operations += 1;
        let index = random.below(CONTAINERS);
        let Some(uuid) = own.get(index).cloned() else {
            match create(cloud, &format!("{name}-{}", asked.operations)) {
                Some(uuid) => {
                    asked.containers.push(uuid.clone());
                    await_quiet(cloud, &uuid, is_over);
                    own.push(uuid);
                }
                None => asked.refused += 1,
            }
            continue;
        };
        let verb = VERBS[random.below(VERBS.len())];
        if perform(cloud, verb, &uuid) {
            if verb[0] == "delete" {
                own.remove(index);
            }
            await_quiet(cloud, &uuid, is_over);
        } else {
            asked.refused += 1;
        }
    }
    asked
}

fn create(cloud: &Cloud, name: &str) -> Option<String> {
    let run = ["appcontainer", "run", "-f", "json", "--name", name];
    let words = [&run, &BUSYBOX[..], &["busybox", "sleep", "100000"]].concat();
    let said = cloud.openstack(&words);
    let made: Value = serde_json::from_str(&said.out).ok()?;
    made["uuid"].as_str().map(str::to_owned)
}

/// Whether it was taken. Some commands print a refusal and end well.
fn perform(cloud: &Cloud, verb: &[&str], uuid: &str) -> bool {
    let command: &[&str] = if verb[0] == "exec" { &["true"] } else { &[] };
    let said = cloud.openstack(&[&["appcontainer"], verb, &[uuid], command].concat());
    said.status == 0 && !format!("{}{}", said.out, said.err).contains("HTTP ")
}

/// Waits a while until nothing is under way, as far as that can be seen.
fn await_quiet(cloud: &Cloud, uuid: &str, is_over: &AtomicBool) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && !is_over.load(Ordering::SeqCst) {
        let said = cloud.openstack(&["appcontainer", "show", "-f", "json", uuid]);
        let shown: Value = serde_json::from_str(&said.out).unwrap_or_default();
        if said.status != 0 || shown["task_state"].is_null() && shown["status"] != "Creating" {
            return;
        }
        sleep(POLL);
    }
}
