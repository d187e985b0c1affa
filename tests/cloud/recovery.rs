//! The service is killed in the middle of each operation, or its host's power fails, and what was begun comes to its end.

use cloud_tests::cloud::{BUSYBOX, Cloud, STUBBORN, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use cloud_tests::registry::{Layout, Registry, noise};
use cloud_tests::throttled::Throttled;

use crate::glance::wait_until_it_pulls;
use crate::images::PORT;

fn row(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!("SELECT status, IFNULL(task_state, '-') FROM zun.container WHERE uuid = '{uuid}'"))
}

fn act(cloud: &Cloud, words: &[&str]) {
    cloud.openstack(&[&["appcontainer"], words].concat()).ok();
}

/// Kills the service while `task` is being done, and starts it again.
fn interrupt(cloud: &Cloud, uuid: &str, task: &str) {
    eventually(60, &format!("{task} has begun"), || {
        let row = row(cloud, uuid);
        if row.ends_with(task) { Ok(()) } else { Err(row) }
    });
    Killed::now(cloud).revive();
}

/// As [`interrupt`], for a task that is over too soon to be caught: the row is as the service leaves it between its first
/// write and its last.
fn as_if_interrupted(cloud: &Cloud, uuid: &str, task: &str) {
    let killed = Killed::now(cloud);
    cloud.sql(&format!("UPDATE zun.container SET task_state = '{task}' WHERE uuid = '{uuid}'"));
    killed.revive();
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_stop_a_reboot_and_a_rebuild_that_were_interrupted_are_done() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(STUBBORN);
        act(cloud, &["restart", "--timeout", "15", &uuid]);
        interrupt(cloud, &uuid, "container_rebooting");
        cloud.wait_for_status(&uuid, "Running");
        act(cloud, &["rebuild", &uuid]);
        interrupt(cloud, &uuid, "container_rebuilding");
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(cloud.openstack(&["appcontainer", "exec", &uuid, "true"]).status, 0);
        act(cloud, &["stop", "--timeout", "15", &uuid]);
        interrupt(cloud, &uuid, "container_stopping");
        // What takes long keeps the service from nothing else: it serves already.
        assert!(row(cloud, &uuid).starts_with("Running"), "it is not over yet");
        cloud.wait_for_status(&uuid, "Stopped");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn what_takes_a_moment_is_done_again_too() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("sleep 100000");
        as_if_interrupted(cloud, &uuid, "container_pausing");
        cloud.wait_for_status(&uuid, "Paused");
        as_if_interrupted(cloud, &uuid, "container_unpausing");
        cloud.wait_for_status(&uuid, "Running");
        // What only concerned its row or its ports leaves it as it was.
        for task in ["sg_adding", "sg_removing", "network_detaching"] {
            as_if_interrupted(cloud, &uuid, task);
            cloud.wait_for_status(&uuid, "Running");
        }
        assert_eq!(cloud.openstack(&["appcontainer", "exec", &uuid, "true"]).status, 0);
        as_if_interrupted(cloud, &uuid, "container_killing");
        cloud.wait_for_status(&uuid, "Stopped");
        as_if_interrupted(cloud, &uuid, "container_deleting");
        cloud.wait_until_gone(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_row_that_makes_no_sense_keeps_no_other_waiting_and_loses_nothing() {
    in_cloud(|cloud| {
        let (odd, other) = (cloud.run_busybox("sleep 100000"), cloud.run_busybox("sleep 100000"));
        let killed = Killed::now(cloud);
        cloud.sql(&format!("UPDATE zun.container SET status = 'Flying' WHERE uuid = '{odd}'"));
        cloud.sql(&format!(
            "UPDATE zun.container SET task_state = 'container_stopping' WHERE uuid = '{other}'"
        ));
        killed.revive();
        cloud.wait_for_status(&other, "Stopped");
        let sandbox = format!("[k]ata-shim /var/lib/zun-kata/sandboxes/{odd}");
        assert_eq!(cloud.on_host(&["pgrep", "-f", &sandbox]).status, 0, "it goes on");
        cloud.sql(&format!("UPDATE zun.container SET status = 'Running' WHERE uuid = '{odd}'"));
        assert_eq!(cloud.openstack(&["appcontainer", "exec", &odd, "true"]).status, 0);
        cloud.delete(&odd);
        cloud.delete(&other);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_create_whose_row_was_left_creating_is_in_error_and_leaves_nothing() {
    in_cloud(|cloud| {
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        // Row and record are as a creation leaves them before its end.
        let killed = Killed::now(cloud);
        cloud.sql(&format!("UPDATE zun.container SET task_state = 'image_pulling' WHERE uuid = '{uuid}'"));
        let record = format!("/var/lib/zun-kata/sandboxes/{uuid}/record.json");
        cloud.shell(&format!(
            "sed -i 's/\"is_made\":true/\"is_made\":false/' {record}; grep -q is_made..false {record}"
        ));
        killed.revive();
        let reason = cloud.wait_for_error(&uuid);
        assert_eq!(reason, "Container failed to create correctly");
        assert!(cloud.ports_of(&uuid).is_empty());
        cloud.delete(&uuid);
    });
}

/// Runs a container of this image.
fn run(cloud: &Cloud, image: &str) -> String {
    cloud.make("run", &[&BUSYBOX[..], &[image, "sleep", "100000"]].concat())
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_registry_that_dies_in_mid_pull_is_named_and_leaves_nothing() {
    in_cloud(|cloud| {
        let registry = Registry::anywhere();
        let name = format!("dying-{}", std::process::id());
        registry.push(&Layout::busybox().with_file(&format!("/{name}"), &noise(8 << 20)), &name, &[]);
        let slow = Throttled::start(PORT, &registry.address(), 1 << 20);
        let image = format!("127.0.0.1:{PORT}/{name}");
        let other = cloud.run_busybox("sleep 100000");
        let pulls = run(cloud, &image);
        wait_until_it_pulls(cloud, &pulls);
        drop(slow);
        let reason = cloud.wait_for_error(&pulls);
        assert!(reason.contains(&format!("127.0.0.1:{PORT}")) && reason.contains(&name), "{reason}");
        cloud.exec(&other, "true");
        let left = cloud.shell("ls -A /var/lib/zun-kata/images/tmp");
        assert_eq!(left, "", "what was half made is gone");
        let _back = Throttled::start(PORT, &registry.address(), 64 << 20);
        let again = run(cloud, &image);
        cloud.wait_for_status(&again, "Running");
        [pulls, other, again].iter().for_each(|uuid| cloud.delete(uuid));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_host_whose_power_fails_in_mid_pull_comes_back_with_what_it_had() {
    in_cloud(|cloud| {
        if !cloud.is_in_lab() {
            return println!("the compute host is this machine, whose power nobody cuts");
        }
        let registry = Registry::anywhere();
        // No test has had the host pull it, nor has this one's earlier try.
        let name = format!("power-{}", std::process::id());
        registry.push(&Layout::busybox().with_file(&format!("/{name}"), &noise(8 << 20)), &name, &[]);
        let _slow = Throttled::start(PORT, &registry.address(), 1 << 20);
        let image = format!("127.0.0.1:{PORT}/{name}");
        let runs = cloud.run_busybox("sleep 100000");
        cloud.exec(&runs, "echo kept >/file; sync");
        let pulls = run(cloud, &image);
        wait_until_it_pulls(cloud, &pulls);
        cloud.cut_power();

        assert_eq!(cloud.wait_for_error(&pulls), "Container failed to create correctly");
        cloud.delete(&pulls);
        // `[compute] resume_container_state` is off, as it is by default.
        cloud.wait_for_status(&runs, "Stopped");
        cloud.act(&["start"], &runs, "Running");
        assert_eq!(cloud.exec(&runs, "cat /file"), "kept");
        let again = run(cloud, &image);
        cloud.wait_for_status(&again, "Running");
        cloud.delete(&again);
        cloud.delete(&runs);
    });
}
