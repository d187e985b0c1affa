//! What one tenant asks of a host keeps no other tenant waiting, and the host stays up.

use std::time::{Duration, Instant};

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use cloud_tests::tenant::Tenant;
use serde_json::Value;

use crate::deaf::Deaf;
use crate::stalled::{STUBBORN, Stubborn};

/// Least number of rounds from which a median is taken.
const ROUNDS: usize = 5;
/// Where whoever waits does so for tens of seconds.
const FEW_ROUNDS: usize = 3;
const COMMANDS: [&str; 4] = ["show", "logs", "exec", "create"];
/// What a command may take longer for reasons of its own. It is a Python process that is forked, asks Keystone for a token
/// and shares two processors with an emulated host, and the end of a `create` is looked for twice a second.
const JITTER: Duration = Duration::from_secs(1);
/// The same for the slowest of many: the machine may be busy with something else for a moment. Whoever waited for one of the
/// stalled operations would wait for a minute, and then be told that it failed.
const HICCUP: Duration = Duration::from_secs(5);

/// Heartbeats for which the host is watched.
const BEATS: u64 = 3;
/// `[DEFAULT] periodic_interval_max` of devstack's compute host.
const BEAT_SECONDS: i64 = 20;

/// Operations that are more than may wait for one container, and those that may.
const TOO_MANY: usize = 20;
const MAY_WAIT: u32 = 16;

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_hundred_stalled_operations_keep_no_other_tenant_waiting() {
    in_cloud(|cloud| {
        let network = cloud.network("10.89.0.0/24");
        cloud.openstack(&["network", "set", "--share", &network.name]).ok();
        let tenant = Tenant::new(cloud, "neighbour");
        let neighbour = Neighbour::move_in(cloud, &tenant, format!("network={}", network.name));
        let stubborn = Stubborn::run(cloud);
        let idle: Vec<_> = (0..ROUNDS).map(|_| neighbour.round()).collect();

        let stalled = stubborn.stall();
        let heart = Heart::watch(cloud, &neighbour.uuid);
        let mut beside = Vec::new();
        while heart.beats() < BEATS || beside.len() < ROUNDS {
            beside.push(neighbour.round());
        }
        assert!(stalled.waiting() >= 100, "only {} stops have waited all the while", stalled.waiting());
        compare(&idle, &beside);
        stalled.end();
        cloud.delete(&neighbour.uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn shims_that_answer_nobody_keep_no_other_tenant_waiting() {
    in_cloud(|cloud| {
        let network = cloud.network("10.92.0.0/24");
        cloud.openstack(&["network", "set", "--share", &network.name]).ok();
        let tenant = Tenant::new(cloud, "neighbour");
        let neighbour = Neighbour::move_in(cloud, &tenant, format!("network={}", network.name));
        let idle: Vec<_> = (0..FEW_ROUNDS).map(|_| neighbour.round()).collect();

        let deaf = Deaf::run(cloud);
        let waiting = deaf.waiting();
        assert!(waiting > 0, "nothing waits for a shim");
        let beside = (0..FEW_ROUNDS).map(|_| {
            deaf.show();
            neighbour.round()
        });
        compare(&idle, &beside.collect::<Vec<_>>());
        // A service that is started finds them so, and serves.
        Killed::now(cloud).revive();
        let heart = Heart::watch(cloud, &neighbour.uuid);
        compare(&idle, &[neighbour.round()]);
        eventually(3 * BEAT_SECONDS.unsigned_abs(), "the host is up", || match heart.beats() {
            0 => Err("it has not been heard of".to_owned()),
            _ => Ok(()),
        });
        deaf.end();
        cloud.delete(&neighbour.uuid);
    });
}

/// How long each of the commands took.
type Round = [Duration; COMMANDS.len()];

/// Another tenant, with a container that runs.
struct Neighbour<'a> {
    cloud: &'a Cloud,
    tenant: &'a Tenant<'a>,
    net: String,
    uuid: String,
}

impl<'a> Neighbour<'a> {
    fn move_in(cloud: &'a Cloud, tenant: &'a Tenant<'a>, net: String) -> Self {
        let uuid = tenant.runs(&["--net", &net]);
        Self { cloud, tenant, net, uuid }
    }

    fn round(&self) -> Round {
        let ask = |words: &[&str]| {
            let began = Instant::now();
            self.tenant.openstack(&[&["appcontainer"], words].concat()).ok();
            began.elapsed()
        };
        let uuid = self.uuid.as_str();
        [ask(&["show", uuid]), ask(&["logs", uuid]), ask(&["exec", uuid, "true"]), self.create()]
    }

    /// Makes a container, and deletes it off the clock.
    fn create(&self) -> Duration {
        let began = Instant::now();
        let words = ["appcontainer", "create", "-f", "json", "--net", &self.net];
        let words = [&words[..], &BUSYBOX[..4], &["busybox", "true"]].concat();
        let made: Value = serde_json::from_str(&self.tenant.openstack(&words).ok()).unwrap();
        let uuid = made["uuid"].as_str().unwrap();
        self.cloud.wait_for_status(uuid, "Created");
        let took = began.elapsed();
        self.cloud.delete(uuid);
        took
    }
}

/// Neither the usual nor the slowest command takes more than twice its usual time, but for what is no tenant's doing.
fn compare(idle: &[Round], beside: &[Round]) {
    for (index, command) in COMMANDS.iter().enumerate() {
        let usual = sorted(idle, index)[idle.len() / 2];
        let times = sorted(beside, index);
        let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
        let figures = format!("{command}: idle {usual:?}, beside stalled operations {times:?}");
        println!("{figures}");
        assert!(median <= usual * 2 + JITTER, "{figures}");
        assert!(slowest <= usual * 2 + HICCUP, "{figures}");
    }
}

fn sorted(rounds: &[Round], command: usize) -> Vec<Duration> {
    let mut times: Vec<Duration> = rounds.iter().map(|round| round[command]).collect();
    times.sort();
    times
}

/// The heartbeat of a container's host.
struct Heart<'a> {
    cloud: &'a Cloud,
    host: String,
    before: u64,
}

impl<'a> Heart<'a> {
    fn watch(cloud: &'a Cloud, container: &str) -> Self {
        let host = cloud.sql(&format!("SELECT host FROM zun.container WHERE uuid = '{container}'"));
        let before = Self::look(cloud, &host).0;
        Self { cloud, host, before }
    }

    /// How often it has beaten, and how many seconds ago it last did, both by the host's clock: an emulated one runs slow while
    /// its machine is busy.
    fn look(cloud: &Cloud, host: &str) -> (u64, i64) {
        let row = cloud.sql(&format!(
            "SELECT report_count, TIMESTAMPDIFF(SECOND, '1970-01-01', last_seen_up) FROM zun.zun_service WHERE host = '{host}'"
        ));
        let (count, seen) = row.split_once('\t').unwrap_or_else(|| panic!("one row of {host}: {row:?}"));
        let now: i64 = cloud.shell("date +%s").trim().parse().unwrap();
        (count.parse().unwrap(), now - seen.parse::<i64>().unwrap())
    }

    /// Beats since it is watched. The host is up, and no beat is as late as the next.
    fn beats(&self) -> u64 {
        let said = self.cloud.openstack(&["appcontainer", "service", "list", "-f", "json"]).ok();
        let services: Value = serde_json::from_str(&said).unwrap();
        let own = services.as_array().unwrap().iter().find(|service| service["Host"] == self.host.as_str());
        assert_eq!(own.map(|service| &service["State"]), Some(&Value::from("up")), "{said}");
        let (count, age) = Self::look(self.cloud, &self.host);
        assert!(age < 2 * BEAT_SECONDS, "{} was last heard of {age} s ago", self.host);
        count - self.before
    }
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn one_operation_too_many_is_refused_at_once() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(STUBBORN);
        let stops = [uuid.as_str(); TOO_MANY];
        let words = ["appcontainer", "stop", "--timeout", "30"];
        cloud.openstack(&[&words[..], &stops[..]].concat()).ok();
        let query = format!(
            "SELECT SUM(finish_time IS NULL), SUM(message <=> 'Error') FROM zun.container_actions \
             WHERE container_uuid = '{uuid}' AND action = 'stop'"
        );
        // The first has not come to its end.
        eventually(15, "those that may wait do, and the others are refused", || {
            let now = cloud.sql(&query);
            let counts: Vec<u32> = now.split('\t').filter_map(|count| count.parse().ok()).collect();
            match counts[..] {
                [waiting, refused]
                    if waiting >= MAY_WAIT && refused > 0 && (waiting + refused) as usize == TOO_MANY =>
                {
                    Ok(())
                }
                _ => Err(now),
            }
        });
        cloud.wait_for_status(&uuid, "Stopped");
        eventually(60, "all that waited is done", || {
            let now = cloud.sql(&query);
            if now.starts_with("0\t") { Ok(()) } else { Err(now) }
        });
        cloud.delete(&uuid);
    });
}
