//! Another tenant, who must not notice what a tenant does: how long his commands take, and whether his host is up.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cloud::{BUSYBOX, Cloud};
use crate::tenant::Tenant;

const COMMANDS: [&str; 4] = ["show", "logs", "exec", "create"];
/// What a command may take longer for reasons of its own. It is a Python process that is forked, asks Keystone for a token
/// and shares two processors with an emulated host, and the end of a `create` is looked for twice a second.
const JITTER: Duration = Duration::from_secs(1);
/// The same for the slowest of many: the machine may be busy with something else for a moment. Whoever waited for one of the
/// stalled operations would wait for a minute, and then be told that it failed.
const HICCUP: Duration = Duration::from_secs(5);

/// `[DEFAULT] periodic_interval_max` of devstack's compute host.
pub const BEAT_SECONDS: i64 = 20;

/// How long each of the commands took.
pub type Round = [Duration; COMMANDS.len()];

/// Another tenant, with a container that runs.
pub struct TimedTenant<'a> {
    cloud: &'a Cloud,
    tenant: &'a Tenant<'a>,
    net: String,
    /// His container.
    pub uuid: String,
}

impl<'a> TimedTenant<'a> {
    /// Moves in, on this network.
    pub fn move_in(cloud: &'a Cloud, tenant: &'a Tenant<'a>, net: String) -> Self {
        let uuid = tenant.runs(&["--net", &net]);
        Self { cloud, tenant, net, uuid }
    }

    /// Each of the commands once.
    pub fn round(&self) -> Round {
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
pub fn compare(idle: &[Round], beside: &[Round]) {
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
pub struct Heart<'a> {
    cloud: &'a Cloud,
    host: String,
    before: u64,
}

impl<'a> Heart<'a> {
    /// Watches it from now on.
    pub fn watch(cloud: &'a Cloud, container: &str) -> Self {
        let host = cloud.sql(&format!("SELECT host FROM zun.container WHERE uuid = '{container}'"));
        let before = Self::look(cloud, &host).0;
        Self { cloud, host, before }
    }

    /// How often it has beaten, and how many seconds ago it last did, both by the database's clock.
    fn look(cloud: &Cloud, host: &str) -> (u64, i64) {
        let row = cloud.sql(&format!(
            "SELECT report_count, TIMESTAMPDIFF(SECOND, last_seen_up, UTC_TIMESTAMP()) FROM zun.zun_service WHERE host = '{host}'"
        ));
        let (count, age) = row.split_once('\t').unwrap_or_else(|| panic!("one row of {host}: {row:?}"));
        (count.parse().unwrap(), age.parse().unwrap())
    }

    /// Beats since it is watched. The host is up, and no beat is as late as the next.
    pub fn beats(&self) -> u64 {
        let said = self.cloud.openstack(&["appcontainer", "service", "list", "-f", "json"]).ok();
        let services: Value = serde_json::from_str(&said).unwrap();
        let own = services.as_array().unwrap().iter().find(|service| service["Host"] == self.host.as_str());
        assert_eq!(own.map(|service| &service["State"]), Some(&Value::from("up")), "{said}");
        let (count, age) = Self::look(self.cloud, &self.host);
        assert!(age < 2 * BEAT_SECONDS, "{} was last heard of {age} s ago", self.host);
        count - self.before
    }
}
