//! Shims that answer nobody, as a guest could bring about if theirs had a fault, and operations that wait for them.

use cloud_tests::cloud::{Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use cloud_tests::tenant::Tenant;
use cloud_tests::timed::{BEAT_SECONDS, Heart, TimedTenant, compare};

/// Rounds from which a median is taken: whoever waits does so for tens of seconds.
const ROUNDS: usize = 3;
const CONTAINERS: usize = 3;
/// At most 16 may wait for one container.
const OPERATIONS_EACH: usize = 10;

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn shims_that_answer_nobody_keep_no_other_tenant_waiting() {
    in_cloud(|cloud| {
        let network = cloud.network("10.92.0.0/24");
        cloud.openstack(&["network", "set", "--share", &network.name]).ok();
        let tenant = Tenant::new(cloud, "neighbour");
        let neighbour = TimedTenant::move_in(cloud, &tenant, format!("network={}", network.name));
        let idle: Vec<_> = (0..ROUNDS).map(|_| neighbour.round()).collect();

        let deaf = Deaf::run(cloud);
        let waiting = deaf.waiting();
        assert!(waiting > 0, "nothing waits for a shim");
        let beside = (0..ROUNDS).map(|_| {
            deaf.show();
            neighbour.round()
        });
        compare(&idle, &beside.collect::<Vec<_>>());
        // A service that is started finds them so, and serves.
        Killed::now(cloud).revive();
        let heart = Heart::watch(cloud, &neighbour.uuid);
        compare(&idle, &[neighbour.round()]);
        eventually(3 * BEAT_SECONDS.unsigned_abs(), "the host is up", || match heart.beats() {
            0 => Err("it has not been heard of".to_owned()),
            _ => Ok(()),
        });
        deaf.end();
        cloud.delete(&neighbour.uuid);
    });
}

/// Containers whose shims are held still. They go on when this goes.
struct Deaf<'a> {
    cloud: &'a Cloud,
    uuids: Vec<String>,
}

impl<'a> Deaf<'a> {
    /// Runs them, holds their shims still, and asks them for what their shims would have to do.
    fn run(cloud: &'a Cloud) -> Self {
        let uuids: Vec<String> = (0..CONTAINERS).map(|_| cloud.run_busybox("sleep 100000")).collect();
        let deaf = Self { cloud, uuids };
        deaf.signal("STOP");
        for _ in 0..OPERATIONS_EACH {
            let said = deaf.command("pause");
            assert_eq!(said.matches("has been accepted").count(), CONTAINERS, "{said}");
        }
        deaf
    }

    /// Operations that have neither been done nor refused.
    fn waiting(&self) -> usize {
        let query = format!(
            "SELECT COUNT(*) FROM zun.container_actions WHERE action = 'pause' AND finish_time IS NULL \
             AND container_uuid IN ('{}')",
            self.uuids.join("', '")
        );
        self.cloud.sql(&query).parse().unwrap()
    }

    /// Looks at each: what they last were is shown, and nobody is waited for long.
    fn show(&self) {
        self.uuids.iter().for_each(|uuid| drop(self.cloud.show(uuid)));
    }

    /// Lets them go on, and deletes them.
    fn end(self) {
        self.signal("CONT");
        for uuid in &self.uuids {
            let settled = || self.cloud.settled(uuid);
            if eventually(200, "what waited is done or refused", settled) == "Paused" {
                self.cloud.act(&["unpause"], uuid, "Running");
            }
            self.cloud.delete(uuid);
        }
    }

    fn signal(&self, signal: &str) {
        for uuid in &self.uuids {
            self.cloud.shell(&format!("pkill -{signal} -f '[k]ata-shim /var/lib/zun-kata/sandboxes/{uuid}'"));
        }
    }

    /// One command of `openstack appcontainer` for all of them.
    fn command(&self, verb: &str) -> String {
        let uuids: Vec<&str> = self.uuids.iter().map(String::as_str).collect();
        self.cloud.openstack(&[&["appcontainer", verb], &uuids[..]].concat()).ok()
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        self.cloud.on_host(&["pkill", "-CONT", "-x", "kata-shim"]);
    }
}
