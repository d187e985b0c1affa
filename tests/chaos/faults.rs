//! What may befall a host and its control plane.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cloud_tests::ballast::Ballast;
use cloud_tests::cloud::Cloud;
use cloud_tests::control_plane::control;
use cloud_tests::killed::Killed;
use cloud_tests::random::Random;
use cloud_tests::stepped_clock::SteppedClock;

/// How long a fault stays, once it is there.
const STAYS: Duration = Duration::from_secs(15);
/// How long a slow service stands still at one time. It goes on for about a tenth of a second in between.
const STILL: Duration = Duration::from_millis(500);
/// Seconds by which a clock steps.
const STEP: i64 = 3600;

/// A fault that comes, stays a while, and is mended.
pub struct Fault {
    /// What it is called in the report.
    pub name: &'static str,
    /// Brings it, and says whether there was anything that it could befall.
    bring: fn(&Cloud, &mut Random, &str) -> bool,
}

/// All of them.
pub const ALL: [Fault; 19] = [
    Fault { name: "service killed", bring: |cloud, _, _| service_killed(cloud) },
    Fault { name: "shim killed", bring: |cloud, random, spared| shim_hit(cloud, random, spared, "-KILL") },
    Fault { name: "shim crashes", bring: |cloud, random, spared| shim_hit(cloud, random, spared, "-SEGV") },
    Fault { name: "shim that answers nobody", bring: shim_stopped },
    Fault { name: "guest kernel panics", bring: |cloud, _, _| guest_panics(cloud) },
    Fault { name: "guest out of memory", bring: |cloud, _, _| guest_without_memory(cloud) },
    Fault { name: "broker killed", bring: |_, _, _| crash("rabbitmq") },
    Fault { name: "broker silent", bring: |_, _, _| silence("rabbitmq") },
    Fault { name: "database killed", bring: |_, _, _| crash("mariadb") },
    Fault { name: "database silent", bring: |_, _, _| silence("mariadb") },
    Fault { name: "database slow", bring: |_, _, _| slow("mariadb") },
    Fault { name: "Keystone killed", bring: |_, _, _| crash("keystone") },
    Fault { name: "Keystone forgets all tokens", bring: |_, _, _| forget_tokens() },
    Fault { name: "registry killed", bring: |cloud, _, _| registry_killed(cloud) },
    Fault { name: "Placement killed", bring: |_, _, _| crash("placement") },
    Fault { name: "Neutron killed", bring: |_, _, _| crash("neutron") },
    Fault { name: "Neutron's agent killed", bring: |cloud, _, _| agent_killed(cloud) },
    Fault { name: "disk full", bring: |cloud, _, _| disk_full(cloud) },
    Fault { name: "clock stepped by an hour, and back", bring: |cloud, _, _| clock_stepped(cloud) },
];

impl Fault {
    /// Lets it come and mends it. False if there was nothing that it could befall. The container `spared` is not touched.
    pub fn befall(&self, cloud: &Cloud, random: &mut Random, spared: &str) -> bool {
        (self.bring)(cloud, random, spared)
    }
}

fn crash(service: &str) -> bool {
    control("kill", service);
    sleep(STAYS);
    control("start", service);
    true
}

fn silence(service: &str) -> bool {
    control("pause", service);
    sleep(STAYS);
    control("resume", service);
    true
}

/// It stands still for most of the time, so that each answer takes a part of a second more.
fn slow(service: &str) -> bool {
    let until = Instant::now() + STAYS;
    while Instant::now() < until {
        control("pause", service);
        sleep(STILL);
        control("resume", service);
    }
    true
}

fn forget_tokens() -> bool {
    control("forget-tokens", "keystone");
    true
}

fn agent_killed(cloud: &Cloud) -> bool {
    cloud.crash_neutron_agent();
    true
}

/// Somebody asks for an image meanwhile.
fn registry_killed(cloud: &Cloud) -> bool {
    control("kill", "registry");
    let words = ["--cpu", "1", "--memory", "128", "--net", "network=net", "--image-pull-policy", "always"];
    let uuid = cloud.make("run", &[&words[..], &["busybox", "true"]].concat());
    let reason = cloud.wait_for_error(&uuid);
    control("start", "registry");
    assert!(reason.contains("127.0.0.1:5001"), "{reason}");
    cloud.delete(&uuid);
    true
}

fn service_killed(cloud: &Cloud) -> bool {
    let killed = Killed::now(cloud);
    sleep(STAYS);
    killed.revive();
    true
}

/// One of the shims, which may be in the midst of anything.
fn some_shim(cloud: &Cloud, random: &mut Random, spared: &str) -> Option<String> {
    let shims = cloud.shell("pgrep -fa '[k]ata-shim /var/lib/zun-kata/sandboxes/' || true");
    let others: Vec<&str> = shims.lines().filter(|line| !line.contains(spared)).collect();
    let chosen = others.get(random.below(others.len().max(1)))?;
    Some(chosen.split(' ').next()?.to_owned())
}

fn shim_hit(cloud: &Cloud, random: &mut Random, spared: &str, signal: &str) -> bool {
    let victim = some_shim(cloud, random, spared);
    victim.is_some_and(|pid| cloud.on_host(&["kill", signal, &pid]).status == 0)
}

fn shim_stopped(cloud: &Cloud, random: &mut Random, spared: &str) -> bool {
    let Some(pid) = some_shim(cloud, random, spared) else { return false };
    let is_stopped = cloud.on_host(&["kill", "-STOP", &pid]).status == 0;
    sleep(STAYS);
    // It may have been killed.
    cloud.on_host(&["kill", "-CONT", &pid]);
    is_stopped
}

/// Small: in a lab's emulated guest, each page that is touched first takes milliseconds.
const SMALL: [&str; 6] = ["--cpu", "1", "--memory", "32", "--net", "network=net"];
const TOO_MUCH: &str = "sleep 3; dd if=/dev/zero of=/dev/null bs=40M count=1";

fn guest_panics(cloud: &Cloud) -> bool {
    // Where its kernel is told to panic in such a case, whoever runs out of memory is enough.
    let panic = format!("echo 2 >/proc/sys/vm/panic_on_oom; {TOO_MUCH}");
    let words = ["--privileged", "busybox", "sh", "-c", &panic];
    let uuid = cloud.make("run", &[&SMALL[..], &words].concat());
    cloud.wait_for_status(&uuid, "Running");
    cloud.wait_for_error(&uuid);
    cloud.delete(&uuid);
    true
}

fn guest_without_memory(cloud: &Cloud) -> bool {
    let uuid = cloud.make("run", &[&SMALL[..], &["busybox", "sh", "-c", TOO_MUCH]].concat());
    cloud.wait_for_status(&uuid, "Stopped");
    cloud.delete(&uuid);
    true
}

fn disk_full(cloud: &Cloud) -> bool {
    let _ballast = Ballast::load(cloud);
    sleep(STAYS);
    true
}

/// Only where the clock is the tests' own.
fn clock_stepped(cloud: &Cloud) -> bool {
    if cloud.is_in_lab() {
        let _stepped = SteppedClock::by(cloud, STEP);
        sleep(STAYS);
    }
    cloud.is_in_lab()
}
