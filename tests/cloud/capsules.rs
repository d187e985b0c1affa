//! Capsules, through `openstack capsule`.

use cloud_tests::capsules::{create, delete, show, template, wait_for_status};
use cloud_tests::cloud::{Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use serde_json::Value;

/// Statuses of a capsule's containers in their order.
fn members(cloud: &Cloud, uuid: &str, kind: u8) -> Vec<String> {
    let query = format!(
        "SELECT m.status FROM zun.container m JOIN zun.container c ON m.capsule_id = c.id WHERE c.uuid = '{uuid}' \
         AND m.container_type = {kind} ORDER BY m.id"
    );
    cloud.sql(&query).lines().map(str::to_owned).collect()
}

/// What the capsule's containers wrote, from the compute host: nothing, as long as none has begun.
pub fn logs(cloud: &Cloud, uuid: &str) -> String {
    cloud.shell(&format!(
        "cd /var/lib/zun-kata/sandboxes/{uuid}/run && find -name 'container-*.log' -exec cat {{}} +"
    ))
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_of_a_capsule_begin_in_order_and_share_a_network() {
    in_cloud(|cloud| {
        let init = ["echo first; sleep 1", "echo second"];
        let containers = [
            "echo page >/index.html; exec httpd -f -p 127.0.0.1:8000 -h /",
            "until wget -q -O - http://127.0.0.1:8000/index.html; do sleep 0.1; done; sleep 100000",
        ];
        let uuid = create(cloud, &template("two", "Always", &init, &containers));
        wait_for_status(cloud, &uuid, "Running");
        eventually(120, "all have begun", || {
            let now = (members(cloud, &uuid, 3), members(cloud, &uuid, 2));
            if now.0 == ["Stopped", "Stopped"] && now.1 == ["Running", "Running"] {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        });
        eventually(60, "one has fetched the other's page", || {
            let logs = logs(cloud, &uuid);
            if logs.contains("page") { Ok(()) } else { Err(logs) }
        });
        let time = |text: &str| {
            let logs = logs(cloud, &uuid);
            let line =
                logs.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {logs}"));
            let entry: Value = serde_json::from_str(line).unwrap();
            entry["time"].to_string()
        };
        assert!(time("first") < time("second") && time("second") < time("page"));
        let shown = show(cloud, &uuid);
        let address = shown["addresses"].to_string();
        assert!(address.contains("10.77.0."), "{shown}");
        assert_eq!(cloud.ports_of(&uuid).len(), 1);
        let listed = cloud.openstack(&["capsule", "list"]).ok();
        assert!(listed.contains(&uuid) && listed.contains("Running"), "{listed}");
        assert!(cloud.openstack(&["capsule", "show", &uuid]).ok().contains(&uuid));
        delete(cloud, &uuid);
        assert!(members(cloud, &uuid, 2).is_empty());
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_capsule_outlives_the_service_and_comes_back_after_its_guest() {
    in_cloud(|cloud| {
        let containers = ["echo began; sleep 100000", "sleep 5; exit 3"];
        let uuid = create(cloud, &template("again", "Always", &[], &containers));
        wait_for_status(cloud, &uuid, "Running");
        let began = || logs(cloud, &uuid).matches("began").count();
        eventually(60, "it has begun", || if began() == 1 { Ok(()) } else { Err(logs(cloud, &uuid)) });
        eventually(120, "one that ended is started again", || match members(cloud, &uuid, 2).as_slice() {
            [first, second] if first == "Running" && second == "Restarting" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        Killed::now(cloud).revive();
        eventually(120, "it runs again", || {
            let now = members(cloud, &uuid, 2);
            if now == ["Running", "Running"] { Ok(()) } else { Err(format!("{now:?}")) }
        });
        assert_eq!(began(), 1, "the other went on");
        cloud.shell(&format!("pkill -9 -f '[k]ata-shim /var/lib/zun-kata/sandboxes/{uuid}'"));
        eventually(
            120,
            "all have begun again",
            || if began() == 2 { Ok(()) } else { Err(logs(cloud, &uuid)) },
        );
        wait_for_status(cloud, &uuid, "Running");
        delete(cloud, &uuid);
    });
}

/// As many as the CPU of a lab is enough for; a test of `guest` has as many as there can be.
#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn many_containers_run_together() {
    in_cloud(|cloud| {
        let many = create(cloud, &template("many", "Never", &[], &["sleep 100000"; 8]));
        wait_for_status(cloud, &many, "Running");
        eventually(60, "all run", || {
            let now = members(cloud, &many, 2);
            if now == ["Running"; 8] { Ok(()) } else { Err(format!("{now:?}")) }
        });
        delete(cloud, &many);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_capsule_that_cannot_begin_says_why_and_one_that_waits_can_be_deleted() {
    in_cloud(|cloud| {
        let fails = create(cloud, &template("fails", "Never", &["exit 4"], &["sleep 100000"]));
        wait_for_status(cloud, &fails, "Error");
        let reason = show(cloud, &fails)["status_reason"].to_string();
        assert!(reason.contains("status 4"), "{reason}");
        delete(cloud, &fails);

        let waits = create(cloud, &template("waits", "Never", &["sleep 100000"], &["sleep 100000"]));
        eventually(120, "it waits", || {
            let now = members(cloud, &waits, 3);
            if now == ["Running"] { Ok(()) } else { Err(format!("{now:?}")) }
        });
        delete(cloud, &waits);
    });
}
