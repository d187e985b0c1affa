//! What an earlier release has begun goes on under this one. `tests/run upgrade` builds that release.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use cloud_tests::capsules;
use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::killed::Killed;
use cloud_tests::top;

/// Beneath the checkout: programs, guest image, and a configuration that names them.
const EARLIER: &str = ".cache/earlier";

/// Containers in each state in which a release can leave them.
struct Begun {
    runs: String,
    is_paused: String,
    was_stopped: String,
    was_created: String,
    capsule: String,
}

impl Begun {
    fn begin(cloud: &Cloud) -> Self {
        let runs = cloud.run_busybox("while :; do date +%s; sleep 1; done");
        cloud.exec(&runs, "echo kept >/kept");
        let is_paused = cloud.run_busybox("sleep 100000");
        cloud.act(&["pause"], &is_paused, "Paused");
        let was_stopped = cloud.run_busybox("sleep 100000");
        cloud.act(&["stop", "--timeout", "1"], &was_stopped, "Stopped");
        let was_created = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        cloud.wait_for_status(&was_created, "Created");
        let scripts = ["sleep 100000", "sleep 100000"];
        let capsule = capsules::create(cloud, &capsules::template("earlier", "Always", &[], &scripts));
        capsules::wait_for_status(cloud, &capsule, "Running");
        Self { runs, is_paused, was_stopped, was_created, capsule }
    }

    fn all(&self) -> [&String; 4] {
        [&self.runs, &self.is_paused, &self.was_stopped, &self.was_created]
    }
}

fn answers(cloud: &Cloud, uuid: &str) {
    assert_eq!(cloud.openstack(&["appcontainer", "exec", uuid, "true"]).status, 0, "{uuid}");
}

/// The processes of guests that were started before are untouched.
fn goes_on(cloud: &Cloud, begun: &Begun) {
    assert_eq!(cloud.show(&begun.runs)["status"], "Running");
    answers(cloud, &begun.runs);
    cloud.openstack(&["appcontainer", "stats", &begun.runs]).ok();
    let log = cloud.openstack(&["appcontainer", "logs", &begun.runs]).ok();
    let seconds: Vec<i64> = log.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let longest = seconds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < 10, "{log}");
    cloud.act(&["unpause"], &begun.is_paused, "Running");
    answers(cloud, &begun.is_paused);
    assert_eq!(capsules::show(cloud, &begun.capsule)["status"], "Running");
}

/// Their disks and records are used by new sandboxes.
fn begins_anew(cloud: &Cloud, begun: &Begun) {
    for uuid in [&begun.was_stopped, &begun.was_created] {
        cloud.act(&["start"], uuid, "Running");
        answers(cloud, uuid);
    }
    cloud.act(&["stop", "--timeout", "1"], &begun.runs, "Stopped");
    cloud.act(&["start"], &begun.runs, "Running");
    assert_eq!(cloud.exec(&begun.runs, "cat /kept").trim(), "kept");
}

#[test]
#[ignore = "needs the cloud of devstack/up and an earlier release; tests/run upgrade brings both"]
fn containers_of_an_earlier_release_go_on() {
    let earlier = top().join(EARLIER);
    in_cloud(|cloud| {
        let killed = Killed::now(cloud);
        killed.start_earlier(earlier.to_str().unwrap());
        killed.wait_until_it_serves();
        let begun = Begun::begin(cloud);
        let earlier = cloud.shell("readlink /proc/$(pgrep -x zun-kata-comput)/exe");
        assert!(earlier.contains(EARLIER), "{earlier}");
        Killed::now(cloud).revive();
        goes_on(cloud, &begun);
        begins_anew(cloud, &begun);
        let new = cloud.run_busybox("sleep 100000");
        answers(cloud, &new);
        for uuid in begun.all() {
            cloud.delete(uuid);
        }
        cloud.delete(&new);
        capsules::delete(cloud, &begun.capsule);
    });
}
