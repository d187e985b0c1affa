//! What becomes of containers that end, fall ill, are rebuilt, or are lost.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;

const LONG: &str = "sleep 100000";

fn run(cloud: &Cloud, options: &[&str], command: &str) -> String {
    cloud.make("run", &[&BUSYBOX[..], options, &["busybox", "sh", "-c", command]].concat())
}

fn detail(cloud: &Cloud, uuid: &str) -> String {
    cloud.show(uuid)["status_detail"].as_str().unwrap_or_default().to_owned()
}

/// How often a container has written a line. The API shows no log of one that is about to be started again.
fn logged(cloud: &Cloud, uuid: &str, line: &str) -> usize {
    let path = format!("/var/lib/zun-kata/sandboxes/{uuid}/run/container-{uuid}.log");
    cloud.shell(&format!("grep -c '\"{line}.n\"' {path} || true")).trim().parse().unwrap_or(0)
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_fails_is_started_again_as_often_as_asked() {
    in_cloud(|cloud| {
        let uuid = run(cloud, &["--restart", "on-failure:2"], "echo began; exit 3");
        eventually(120, "it has been started three times", || {
            match (logged(cloud, &uuid, "began"), cloud.show(&uuid)["status"].as_str()) {
                (3, Some("Stopped")) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        assert!(detail(cloud, &uuid).starts_with("Exited(3)"), "{}", detail(cloud, &uuid));
        cloud.delete(&uuid);

        let well = run(cloud, &["--restart", "on-failure"], "echo began");
        cloud.wait_for_status(&well, "Stopped");
        assert_eq!(logged(cloud, &well, "began"), 1, "it did not fail");
        cloud.delete(&well);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_is_started_again_until_it_is_stopped_or_deleted() {
    in_cloud(|cloud| {
        let uuid = run(
            cloud,
            &["--restart", "always"],
            "echo began; until [ -e /end ]; do sleep 0.2; done; rm /end",
        );
        cloud.wait_for_status(&uuid, "Running");
        cloud.exec(&uuid, "touch /end");
        eventually(120, "it began again", || match logged(cloud, &uuid, "began") {
            2 => Ok(()),
            other => Err(other.to_string()),
        });
        cloud.wait_for_status(&uuid, "Running");
        cloud.openstack(&["appcontainer", "stop", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Stopped");
        // Longer than the pause before a restart.
        eventually(60, "the service has looked at its containers", || {
            let shown = cloud.show(&uuid);
            let seconds = shown["status_detail"]
                .as_str()
                .and_then(|detail| detail.split_whitespace().find_map(|word| word.parse::<u32>().ok()));
            if seconds.is_some_and(|seconds| seconds >= 5) { Ok(()) } else { Err(shown.to_string()) }
        });
        assert_eq!(cloud.show(&uuid)["status"], "Stopped");
        assert_eq!(logged(cloud, &uuid, "began"), 2);
        cloud.delete(&uuid);

        // Pauses grow, so that it is found in one.
        let fails = run(cloud, &["--restart", "unless-stopped"], "exit 1");
        cloud.wait_for_status(&fails, "Restarting");
        Killed::now(cloud).revive();
        cloud.wait_for_status(&fails, "Restarting");
        cloud.delete(&fails);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn health_is_checked_and_shown() {
    in_cloud(|cloud| {
        let check = "cmd=test -e /well,interval=1,retries=2,timeout=5";
        let uuid = run(cloud, &["--healthcheck", check], LONG);
        cloud.wait_for_status(&uuid, "Running");
        cloud.wait_for_health(&uuid, "unhealthy");
        cloud.exec(&uuid, "touch /well");
        cloud.wait_for_health(&uuid, "healthy");
        Killed::now(cloud).revive();
        cloud.wait_for_health(&uuid, "healthy");
        cloud.delete(&uuid);

        let hangs = run(cloud, &["--healthcheck", "cmd=sleep 4711,interval=1,retries=1,timeout=1"], LONG);
        cloud.wait_for_status(&hangs, "Running");
        cloud.wait_for_health(&hangs, "unhealthy");
        let left: usize = cloud.exec(&hangs, "ps | grep -c 'sleep 471[1]' || true").parse().unwrap();
        assert!(left <= 2, "checks that took too long are ended: {left}");
        cloud.delete(&hangs);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_rebuilt_container_is_new_and_keeps_its_address() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("echo began; exec sleep 100000");
        cloud.exec(&uuid, "echo x >/written; sync");
        let (addresses, ports) = (cloud.show(&uuid)["addresses"].clone(), cloud.ports_of(&uuid));
        cloud.openstack(&["appcontainer", "rebuild", &uuid]).ok();
        let rebuilt = |query: &str| {
            eventually(180, "it is rebuilt", || {
                let now = cloud.sql(query);
                if now == "Success" { Ok(()) } else { Err(now) }
            });
        };
        let event = format!(
            "SELECT IFNULL(MAX(e.result), '-') FROM zun.container_actions_events e JOIN zun.container_actions a \
             ON a.id = e.action_id WHERE a.container_uuid = '{uuid}' AND e.event = 'compute__do_container_rebuild'"
        );
        rebuilt(&event);
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(cloud.exec(&uuid, "ls /written 2>/dev/null | wc -l"), "0");
        let address = addresses.to_string();
        let inside = cloud.exec(&uuid, "ip -o -4 address show eth0 | awk '{ print $4 }' | cut -d / -f 1");
        assert!(address.contains(&inside), "{address} {inside}");
        assert_eq!(cloud.ports_of(&uuid), ports);

        // An image that is not there is told, and what runs goes on.
        let missing = cloud.openstack(&["appcontainer", "rebuild", "--image", "not-there", &uuid]);
        assert_eq!(missing.status, 0, "{missing:?}");
        eventually(120, "the action failed", || {
            let query = format!(
                "SELECT COUNT(*) FROM zun.container_actions WHERE container_uuid = '{uuid}' AND action = 'rebuild' \
                 AND message = 'Error'"
            );
            let failed = cloud.sql(&query);
            if failed == "1" { Ok(()) } else { Err(failed) }
        });
        assert_eq!(cloud.exec(&uuid, "echo still here"), "still here");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_its_host_has_lost_is_healed_or_said_to_be_lost() {
    in_cloud(|cloud| {
        let healed = run(cloud, &["--auto-heal"], LONG);
        let lost = cloud.run_busybox(LONG);
        cloud.wait_for_status(&healed, "Running");
        let ports = cloud.ports_of(&healed);
        let lose = |uuid: &str| {
            cloud.shell(&format!(
                "pkill -9 -f '[k]ata-shim /var/lib/zun-kata/sandboxes/{uuid}'; rm -r /var/lib/zun-kata/sandboxes/{uuid}"
            ));
        };
        // The one is found by the next comparison of states, the other when the service starts.
        lose(&lost);
        let reason = cloud.wait_for_error(&lost);
        assert!(reason.contains("No such container"), "{reason}");
        let killed = Killed::now(cloud);
        lose(&healed);
        killed.revive();
        cloud.wait_for_status(&healed, "Running");
        assert_eq!(cloud.exec(&healed, "echo well"), "well");
        assert_eq!(cloud.ports_of(&healed), ports);
        cloud.delete(&healed);
        cloud.delete(&lost);
    });
}
