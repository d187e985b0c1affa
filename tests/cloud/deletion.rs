//! Containers that are deleted: at their end, slowly, and while Neutron does not answer.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::relay::{self, Relay};

const NEUTRON: u16 = 9696;
const PLACEMENT: u16 = 8778;
/// Seconds after which what could not be given back has been tried again.
const LATER: u64 = 240;

fn status(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!("SELECT status FROM zun.container WHERE uuid = '{uuid}'"))
}

fn comes_to_have_no_port(cloud: &Cloud, uuid: &str) {
    eventually(LATER, &format!("the port of {uuid} is given back"), || {
        let ports = cloud.ports_of(uuid);
        if ports.is_empty() { Ok(()) } else { Err(format!("{ports:?}")) }
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_is_removed_at_its_end_goes_when_it_is_stopped_or_killed() {
    in_cloud(|cloud| {
        let ends_when_asked = "trap 'exit 0' TERM; while :; do sleep 0.2; done";
        let words = ["--auto-remove", "busybox", "sh", "-c", ends_when_asked];
        let run = |_: &str| cloud.make("run", &[&BUSYBOX[..], &words].concat());
        let verbs = ["stop", "kill"];
        let uuids = verbs.map(run);
        uuids.iter().for_each(|uuid| cloud.wait_for_status(uuid, "Running"));
        for (verb, uuid) in verbs.iter().zip(&uuids) {
            cloud.openstack(&["appcontainer", verb, uuid]).ok();
        }
        uuids.iter().for_each(|uuid| cloud.wait_until_gone(uuid));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_is_deleted_by_force_without_neutron_and_placement_and_what_they_have_goes_later() {
    in_cloud(|cloud| {
        if !relay::exist(cloud) {
            return;
        }
        let uuid = cloud.run_busybox("sleep 100000");
        let ports = cloud.ports_of(&uuid);
        assert_eq!(ports.len(), 1);
        let relays = [NEUTRON, PLACEMENT].map(|port| Relay::cut(cloud, port));
        cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
        cloud.wait_until_gone_within(180, &uuid);
        assert!(!cloud.shell("ls /var/lib/zun-kata/sandboxes").contains(&uuid), "its sandbox is gone, too");
        assert_eq!(cloud.ports_of(&uuid), ports, "Neutron has not been told");
        let allocations =
            || cloud.sql(&format!("SELECT id FROM placement.allocations WHERE consumer_id = '{uuid}'"));
        assert_ne!(allocations(), "", "nor Placement");
        relays.into_iter().for_each(Relay::join);
        comes_to_have_no_port(cloud, &uuid);
        eventually(LATER, "its allocation is given back", || match allocations() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_is_being_deleted_says_so_and_takes_nothing_else() {
    in_cloud(|cloud| {
        if !relay::exist(cloud) {
            return;
        }
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "true"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        let relay = Relay::silence(cloud, NEUTRON);
        cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
        eventually(30, "its row says that it is being deleted", || match status(cloud, &uuid) {
            now if now == "Deleting" => Ok(()),
            now => Err(now),
        });
        for verb in ["start", "delete"] {
            let refused = cloud.openstack(&["appcontainer", verb, &uuid]);
            assert!(refused.out.contains("HTTP 409"), "{verb}: {refused:?}");
        }
        assert_eq!(status(cloud, &uuid), "Deleting");
        relay.join();
        cloud.wait_until_gone_within(180, &uuid);
        comes_to_have_no_port(cloud, &uuid);
    });
}
