//! A host whose clock steps.

use std::time::{Duration, Instant};

use cloud_tests::cloud::{BUSYBOX, STUBBORN, in_cloud};
use cloud_tests::stepped_clock::SteppedClock;

/// Seconds.
const STEP: i64 = 3600;
/// How long a stop may take that gives its container ten seconds.
const STOP_MAX: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_clock_that_steps_by_an_hour_keeps_nobody_waiting() {
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
            cloud.openstack(&["appcontainer", "stop", "--timeout", "10", &stopping]).ok();
            let began = Instant::now();
            let stepped = SteppedClock::by(cloud, step);
            cloud.wait_for_status(&stopping, "Stopped");
            assert!(began.elapsed() < STOP_MAX, "{step}: it took {:?}", began.elapsed());
            cloud.act(&["start"], &stopping, "Running");
            cloud.exec(&uuid, "touch /well");
            cloud.wait_for_health(&uuid, "healthy");
            cloud.exec(&uuid, "rm /well");
            cloud.wait_for_health(&uuid, "unhealthy");
            let made = cloud.run_busybox("sleep 100000");
            drop(stepped);
            [made, stopping].iter().for_each(|uuid| cloud.delete(uuid));
        }
        assert_eq!(cloud.show(&uuid)["status"], "Running");
        cloud.delete(&uuid);
    });
}
