//! A host whose clock steps.

use std::time::{Duration, Instant};

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;

/// Seconds.
const STEP: i64 = 3600;
/// It ends by no signal that it may ignore.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 1; done";
const STOP_TIMEOUT: &str = "10";
/// How long a stop may take that waits for this timeout.
const STOP_MAX: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_clock_that_steps_by_an_hour_costs_no_container_anything() {
    in_cloud(|cloud| {
        if !cloud.is_in_lab() {
            return println!("the compute host is this machine, whose clock nobody sets");
        }
        let check = "cmd=test -e /well,interval=1,retries=2,timeout=5";
        let words = [&BUSYBOX[..], &["--healthcheck", check, "busybox", "sleep", "100000"]].concat();
        let uuid = cloud.make("run", &words);
        cloud.wait_for_status(&uuid, "Running");
        for step in [STEP, -STEP] {
            let stopping = cloud.run_busybox(STUBBORN);
            cloud.openstack(&["appcontainer", "stop", "--timeout", STOP_TIMEOUT, &stopping]).ok();
            let began = Instant::now();
            cloud.shell(&format!("date -s @$(($(date +%s) + {step})) >/dev/null"));
            cloud.wait_for_status(&stopping, "Stopped");
            assert!(began.elapsed() < STOP_MAX, "{step}: it took {:?}", began.elapsed());
            cloud.exec(&uuid, "touch /well");
            becomes(cloud, &uuid, "healthy");
            cloud.exec(&uuid, "rm /well");
            becomes(cloud, &uuid, "unhealthy");

            cloud.shell("date -s @$(cat /sys/class/rtc/rtc0/since_epoch) >/dev/null");
            eventually(90, "the host is up", || {
                let said =
                    cloud.openstack(&["appcontainer", "service", "list", "-f", "value", "-c", "State"]).ok();
                if said.trim() == "up" { Ok(()) } else { Err(said) }
            });
            cloud.act(&["start"], &stopping, "Running");
            cloud.delete(&stopping);
        }
        assert_eq!(cloud.show(&uuid)["status"], "Running");
        cloud.delete(&uuid);
    });
}

fn becomes(cloud: &Cloud, uuid: &str, health: &str) {
    eventually(60, &format!("it is {health}"), || {
        let detail = cloud.show(uuid)["status_detail"].to_string();
        if detail.contains(&format!("({health})")) { Ok(()) } else { Err(detail) }
    });
}
