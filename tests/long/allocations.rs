//! What a creation has allocated whose message is lost with the broker: nobody but Placement knows of it.

use cloud_tests::cloud::{BUSYBOX, in_cloud, service_log};
use cloud_tests::control_plane::control;
use cloud_tests::eventually;
use cloud_tests::killed::Killed;

/// Seconds until the service has looked twice.
const TWO_LOOKS: u64 = 200;

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run long brings it up"]
fn what_a_lost_creation_has_allocated_is_given_back() {
    in_cloud(|cloud| {
        let killed = Killed::now(cloud);
        let uuid = cloud.make("run", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        let allocations =
            || cloud.sql(&format!("SELECT id FROM placement.allocations WHERE consumer_id = '{uuid}'"));
        eventually(30, "the scheduler has allocated", || match allocations() {
            none if none.is_empty() => Err(none),
            _ => Ok(()),
        });
        // The message waits for the service, and goes with the broker.
        control("kill", "rabbitmq");
        control("start", "rabbitmq");
        eventually(120, "the API takes the deletion", || {
            cloud.openstack(&["appcontainer", "delete", "--force", &uuid]);
            match cloud.sql(&format!("SELECT uuid FROM zun.container WHERE uuid = '{uuid}'")) {
                none if none.is_empty() => Ok(()),
                some => Err(some),
            }
        });
        assert_ne!(allocations(), "", "Zun's API has removed the row only");
        killed.revive();
        eventually(TWO_LOOKS, "its allocation is given back", || match allocations() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
        let said = service_log(cloud);
        let line = said.lines().find(|line| line.contains("an allocation in Placement was left"));
        assert!(line.is_some_and(|line| line.contains(&uuid)), "{line:?}");
    });
}
