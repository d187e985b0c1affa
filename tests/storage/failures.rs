//! What goes wrong with volumes, and what is left of it: nothing, and no byte of anybody's is lost.

use cloud_tests::cloud::Cloud;
use cloud_tests::eventually;

use crate::{LONG, Volume, run, with_cinder};

/// The digest of what is at both ends of an LVM volume, and how much of it was ever written to: it is thin.
fn digest(cloud: &Cloud, volume: &Volume<'_>) -> String {
    let name = format!("zun-kata-volumes/volume-{}", volume.id);
    cloud.shell(&format!(
        "export LVM_SYSTEM_DIR=/run/zun-kata-devstack/storage/lvm
        lvchange -ay -K {name}; lvs --noheadings -o data_percent {name}
        for end in head tail; do $end -c 16M /dev/{name} | sha256sum; done"
    ))
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_volume_with_data_that_cannot_be_mounted_keeps_them() {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "lvm");
        digest(cloud, &volume);
        cloud.shell(&format!("head -c 5000 /dev/urandom >/dev/zun-kata-volumes/volume-{}; sync", volume.id));
        let before = digest(cloud, &volume);
        let uuid = cloud.make_mounting("run", &[&volume.at("/data")], LONG);
        let reason = cloud.wait_for_error(&uuid);
        assert!(reason.contains("mount"), "{reason}");
        cloud.delete(&uuid);
        volume.becomes("available");
        assert_eq!(digest(cloud, &volume), before);
    });
}

/// An attachment fails for this cause while the storage is as `begin` makes it.
fn assert_undone_and_works_later(cause: &str, begin: fn(&Cloud), end: fn(&Cloud)) {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, "lvm");
        let outage = Outage::new(cloud, begin, end);
        let uuid = cloud.make_mounting("run", &[&volume.at("/data")], LONG);
        let reason = cloud.wait_for_error(&uuid);
        drop(outage);
        assert!(reason.contains(&volume.id) && reason.contains(cause), "{reason}");
        cloud.delete(&uuid);
        volume.becomes("available");
        let again = run(cloud, &[&volume.at("/data")]);
        cloud.delete(&again);
        volume.becomes("available");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_attachment_that_fails_is_undone_and_works_at_the_next_try() {
    // Nobody listens where Cinder says that the target is.
    let begin = |cloud: &Cloud| filter(cloud, "-I", 3260, "REJECT --reject-with tcp-reset");
    let end = |cloud: &Cloud| filter(cloud, "-D", 3260, "REJECT --reject-with tcp-reset");
    assert_undone_and_works_later("iscsiadm", begin, end);
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_export_that_fails_in_cinder_is_undone_and_works_at_the_next_try() {
    let begin = |cloud: &Cloud| drop(cloud.shell("kill -9 $(cat /run/zun-kata-devstack/run/tgtd.pid)"));
    let end = |cloud: &Cloud| drop(cloud.on_host(&["devstack/host", "storage"]).ok());
    assert_undone_and_works_later("Cinder", begin, end);
}

/// Storage that does not serve while this is held.
struct Outage<'a> {
    cloud: &'a Cloud,
    end: fn(&Cloud),
}

impl<'a> Outage<'a> {
    fn new(cloud: &'a Cloud, begin: fn(&Cloud), end: fn(&Cloud)) -> Self {
        begin(cloud);
        Self { cloud, end }
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        (self.end)(self.cloud);
    }
}

fn assert_deleted_without_its_storage(kind: &str, begin: fn(&Cloud), end: fn(&Cloud)) {
    with_cinder(|cloud| {
        let volume = Volume::new(cloud, kind);
        let uuid = run(cloud, &[&volume.at("/data")]);
        cloud.exec(&uuid, "echo kept >/data/file; sync");
        let outage = Outage::new(cloud, begin, end);
        cloud.exec(&uuid, "(echo lost >/data/other; sync) >/dev/null 2>&1 &");
        cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
        // What waits for the storage is told after some minutes that it failed, and so is the end of it.
        cloud.wait_until_gone_within(700, &uuid);
        drop(outage);
        volume.becomes("available");
        let again = run(cloud, &[&volume.at("/data")]);
        assert_eq!(cloud.exec(&again, "cat /data/file"), "kept");
        cloud.delete(&again);
        volume.becomes("available");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_target_that_goes_under_a_running_container_keeps_nothing_from_being_deleted() {
    assert_deleted_without_its_storage(
        "lvm",
        |cloud| {
            cloud.shell("echo 5 >$(ls -d /sys/class/iscsi_session/*/recovery_tmo)");
            drop_packets(cloud, "-I", 3260);
            eventually(120, "the host has noticed", || {
                let state = cloud.shell("cat /sys/class/iscsi_session/*/state");
                if state.trim() == "LOGGED_IN" { Err(state) } else { Ok(()) }
            });
        },
        |cloud| drop_packets(cloud, "-D", 3260),
    );
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_nfs_server_that_does_not_answer_keeps_nothing_from_being_deleted() {
    let begin = |cloud: &Cloud| drop_packets(cloud, "-I", 2049);
    assert_deleted_without_its_storage("nfs", begin, |cloud| drop_packets(cloud, "-D", 2049));
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_cluster_that_does_not_answer_keeps_nothing_from_being_deleted() {
    let begin = |cloud: &Cloud| drop_packets(cloud, "-I", 6800);
    assert_deleted_without_its_storage("rbd", begin, |cloud| drop_packets(cloud, "-D", 6800));
}

fn drop_packets(cloud: &Cloud, how: &str, port: u16) {
    filter(cloud, how, port, "DROP");
}

fn filter(cloud: &Cloud, how: &str, port: u16, target: &str) {
    cloud.shell(&format!("iptables {how} INPUT -p tcp --dport {port} -j {target}"));
}
