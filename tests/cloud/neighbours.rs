//! What one tenant asks of a host keeps no other tenant waiting, and the host stays up.

use cloud_tests::cloud::{STUBBORN, in_cloud};
use cloud_tests::eventually;
use cloud_tests::tenant::Tenant;
use cloud_tests::timed::{Heart, TimedTenant, compare};

use crate::stalled::Stubborn;

/// Least number of rounds from which a median is taken.
const ROUNDS: usize = 5;
/// Heartbeats for which the host is watched.
const BEATS: u64 = 2;

/// Operations that are more than may wait for one container, and those that may.
const TOO_MANY: usize = 20;
const MAY_WAIT: u32 = 16;

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_hundred_stalled_operations_keep_no_other_tenant_waiting() {
    in_cloud(|cloud| {
        let network = cloud.network("10.89.0.0/24");
        cloud.openstack(&["network", "set", "--share", &network.name]).ok();
        let tenant = Tenant::new(cloud, "neighbour");
        let neighbour = TimedTenant::move_in(cloud, &tenant, format!("network={}", network.name));
        let stubborn = Stubborn::run(cloud);
        let idle: Vec<_> = (0..ROUNDS).map(|_| neighbour.round()).collect();

        let stalled = stubborn.stall();
        let heart = Heart::watch(cloud, &neighbour.uuid);
        let mut beside = Vec::new();
        while heart.beats() < BEATS || beside.len() < ROUNDS {
            beside.push(neighbour.round());
        }
        assert!(stalled.waiting() >= 100, "only {} stops have waited all the while", stalled.waiting());
        compare(&idle, &beside);
        stalled.end();
        cloud.delete(&neighbour.uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn one_operation_too_many_is_refused_at_once() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(STUBBORN);
        let stops = [uuid.as_str(); TOO_MANY];
        let words = ["appcontainer", "stop", "--timeout", "30"];
        cloud.openstack(&[&words[..], &stops[..]].concat()).ok();
        let query = format!(
            "SELECT SUM(finish_time IS NULL), SUM(message <=> 'Error') FROM zun.container_actions \
             WHERE container_uuid = '{uuid}' AND action = 'stop'"
        );
        // The first has not come to its end.
        eventually(15, "those that may wait do, and the others are refused", || {
            let now = cloud.sql(&query);
            let counts: Vec<u32> = now.split('\t').filter_map(|count| count.parse().ok()).collect();
            match counts[..] {
                [waiting, refused]
                    if waiting >= MAY_WAIT && refused > 0 && (waiting + refused) as usize == TOO_MANY =>
                {
                    Ok(())
                }
                _ => Err(now),
            }
        });
        cloud.wait_for_status(&uuid, "Stopped");
        eventually(60, "all that waited is done", || {
            let now = cloud.sql(&query);
            if now.starts_with("0\t") { Ok(()) } else { Err(now) }
        });
        cloud.delete(&uuid);
    });
}
