//! What goes wrong with volumes, and what is left of it: nothing, and no byte of anybody's is lost.

use std::fs;
use std::process::Command;

use cloud_tests::cloud::Cloud;
use cloud_tests::{devstack, eventually};

use crate::{LONG, Volume, make, run, with_cinder};

/// The digest of what is on an LVM volume.
fn digest(cloud: &Cloud, volume: &Volume<'_>) -> String {
    let device = format!("/dev/zun-kata-volumes/volume-{}", volume.id);
    let lvm = "LVM_SYSTEM_DIR=/run/zun-kata-devstack/storage/lvm";
    cloud.shell(&format!("{lvm} lvchange -ay -K zun-kata-volumes/volume-{}; sha256sum <{device}", volume.id))
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_volume_with_data_that_cannot_be_mounted_keeps_them() {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "lvm");
        digest(cloud, &volume);
        cloud.shell(&format!("head -c 5000 /dev/urandom >/dev/zun-kata-volumes/volume-{}; sync", volume.id));
        let before = digest(cloud, &volume);
        let uuid = make(cloud, "run", &[&volume.at("/data")], LONG);
        let reason = cloud.wait_for_error(&uuid);
        assert!(reason.contains("mount"), "{reason}");
        cloud.delete(&uuid);
        volume.becomes("available");
        assert_eq!(digest(cloud, &volume), before);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_attachment_that_fails_is_undone_and_works_at_the_next_try() {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "lvm");
        // Nobody listens where Cinder says that the target is.
        cloud.shell("iptables -I INPUT -p tcp --dport 3260 -j REJECT --reject-with tcp-reset");
        let uuid = make(cloud, "run", &[&volume.at("/data")], LONG);
        let reason = cloud.wait_for_error(&uuid);
        cloud.shell("iptables -D INPUT -p tcp --dport 3260 -j REJECT --reject-with tcp-reset");
        assert!(reason.contains(&volume.id) && reason.contains("iscsiadm"), "{reason}");
        cloud.delete(&uuid);
        volume.becomes("available");
        let again = run(cloud, &[&volume.at("/data")]);
        cloud.delete(&again);
        volume.becomes("available");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_target_that_goes_under_a_running_container_keeps_nothing_from_being_deleted() {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "lvm");
        let uuid = run(cloud, &[&volume.at("/data")]);
        cloud.exec(&uuid, "echo kept >/data/file; sync");
        let rule = "-p tcp --dport 3260 -j DROP";
        cloud.shell(&format!(
            "iptables -I INPUT {rule}; echo 5 >$(ls -d /sys/class/iscsi_session/*/recovery_tmo)"
        ));
        cloud.exec(&uuid, "(echo lost >/data/other; sync) >/dev/null 2>&1 &");
        eventually(120, "the host has noticed", || {
            let state = cloud.shell("cat /sys/class/iscsi_session/*/state");
            if state.trim() == "LOGGED_IN" { Err(state) } else { Ok(()) }
        });
        cloud.delete(&uuid);
        cloud.shell(&format!("iptables -D INPUT {rule}"));
        volume.becomes("available");
        let again = run(cloud, &[&volume.at("/data")]);
        assert_eq!(cloud.exec(&again, "cat /data/file"), "kept");
        cloud.delete(&again);
        volume.becomes("available");
    });
}

/// Ceph's storage daemon, which does nothing until this is dropped.
struct Stopped(String);

impl Stopped {
    fn osd() -> Self {
        let pid = fs::read_to_string(devstack().join("run/ceph-osd.pid")).unwrap();
        let stopped = Self(pid.trim().to_owned());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0]).status().unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_cluster_that_does_not_answer_keeps_nothing_from_being_deleted() {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "rbd");
        let uuid = run(cloud, &[&volume.at("/data")]);
        cloud.exec(&uuid, "echo kept >/data/file; sync");
        let stopped = Stopped::osd();
        cloud.exec(&uuid, "(echo lost >/data/other; sync) >/dev/null 2>&1 &");
        cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
        // What waits for the cluster is told after two minutes that it failed, and so is the end of it.
        let rows = format!("SELECT status, status_reason FROM zun.container WHERE uuid = '{uuid}'");
        eventually(400, "the container is deleted", || {
            let rows = cloud.sql(&rows);
            if rows.is_empty() { Ok(()) } else { Err(rows) }
        });
        drop(stopped);
        volume.becomes("available");
        let again = run(cloud, &[&volume.at("/data")]);
        assert_eq!(cloud.exec(&again, "cat /data/file"), "kept");
        cloud.delete(&again);
        volume.becomes("available");
    });
}
