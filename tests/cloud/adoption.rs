//! Sandboxes and rows that do not belong together as they did: a host with another name, a row that is lost, a sandbox that is.

use cloud_tests::cloud::{BUSYBOX, Cloud, Said, in_cloud, service_log};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;

const LONG: &str = "sleep 100000";

fn host_of(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!("SELECT IFNULL(host, '-') FROM zun.container WHERE uuid = '{uuid}'"))
}

/// The process of a container's sandbox, or nothing.
fn shim_of(cloud: &Cloud, uuid: &str) -> String {
    let found = format!("pgrep -f '[k]ata-shim /var/lib/zun-kata/sandboxes/{uuid}' || true");
    cloud.shell(&found).trim().to_owned()
}

/// Takes a sandbox away from under the service.
fn lose(cloud: &Cloud, uuid: &str) {
    let sandbox = format!("/var/lib/zun-kata/sandboxes/{uuid}");
    cloud.shell(&format!("pkill -9 -f '[k]ata-shim {sandbox}'; rm -r {sandbox}"));
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_of_a_host_that_had_another_name_go_on() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(LONG);
        cloud.exec(&uuid, "echo kept >/file; sync");
        let (shim, host) = (shim_of(cloud, &uuid), host_of(cloud, &uuid));
        assert!(!shim.is_empty());
        let killed = Killed::now(cloud);
        // All of them, so that no row has the host's name.
        cloud.sql(&format!("UPDATE zun.container SET host = 'former-name' WHERE host = '{host}'"));
        killed.revive();
        eventually(120, "its row is this host's again", || match host_of(cloud, &uuid) {
            now if now == host => Ok(()),
            now => Err(now),
        });
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(shim_of(cloud, &uuid), shim, "it never ended");
        assert_eq!(cloud.exec(&uuid, "cat /file"), "kept");
        cloud.delete(&uuid);
    });
}

/// An operator's look at sandboxes that no row knows.
fn orphans(cloud: &Cloud, options: &[&str]) -> Said {
    let configuration = ".cache/devstack/etc/host/zun-kata.conf";
    let files = ["--config-file", ".cache/devstack/etc/zun/zun.conf", "--config-file", configuration];
    let words = [&["target/release/zun-kata-compute"], &files[..], &["sandbox", "orphans"], options];
    cloud.on_host(&words.concat())
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_sandbox_whose_row_is_lost_stays_until_an_operator_removes_it() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(LONG);
        let (shim, ports) = (shim_of(cloud, &uuid), cloud.ports_of(&uuid));
        let killed = Killed::now(cloud);
        cloud.sql(&format!("DELETE FROM zun.container WHERE uuid = '{uuid}'"));
        killed.revive();
        eventually(60, "the log warns of it", || {
            let log = service_log(cloud);
            let of_it: Vec<&str> = log.lines().filter(|line| line.contains(&uuid)).collect();
            let is_loud = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
            let warns = of_it.iter().any(|line| is_loud(line) && line.contains("orphan"));
            if warns { Ok(()) } else { Err(of_it.join("\n")) }
        });
        assert_eq!((shim_of(cloud, &uuid), cloud.ports_of(&uuid)), (shim, ports), "it goes on");
        let listed = orphans(cloud, &[]).ok();
        assert!(listed.lines().any(|line| line.contains(&uuid)), "{listed}");

        orphans(cloud, &["--remove", &uuid]).ok();
        assert_eq!(shim_of(cloud, &uuid), "");
        assert!(!cloud.shell("ls /var/lib/zun-kata/sandboxes").contains(&uuid));
        assert!(!orphans(cloud, &[]).ok().contains(&uuid));
        eventually(60, "what it held elsewhere is given back", || {
            let held = cloud.sql(&format!(
                "SELECT id FROM neutron.ports WHERE device_id = '{uuid}' \
                 UNION SELECT consumer_id FROM placement.allocations WHERE consumer_id = '{uuid}'"
            ));
            if held.is_empty() { Ok(()) } else { Err(held) }
        });
        let refused = orphans(cloud, &["--remove", &uuid]);
        assert!(refused.status != 0 && refused.err.contains(&uuid), "{refused:?}");
    });
}

/// Waits until `show` says that a container is in error, and gives the reason. It never says that it was stopped.
fn reason_shown(cloud: &Cloud, uuid: &str) -> String {
    let shown = eventually(60, "show says that it is lost", || {
        let shown = cloud.show(uuid);
        assert_ne!(shown["status"], "Stopped", "{shown}");
        if shown["status"] == "Error" { Ok(shown) } else { Err(shown.to_string()) }
    });
    shown["status_reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_lost_container_is_in_error_when_somebody_looks_and_one_that_heals_does() {
    in_cloud(|cloud| {
        let healed =
            cloud.make("run", &[&BUSYBOX[..], &["--auto-heal", "busybox", "sleep", "100000"]].concat());
        let lost = cloud.run_busybox(LONG);
        cloud.wait_for_status(&healed, "Running");
        lose(cloud, &lost);
        let reason = reason_shown(cloud, &lost);
        assert!(reason.contains("No such container"), "{reason}");

        lose(cloud, &healed);
        // Who looks at it before the service does keeps it from nothing.
        cloud.show(&healed);
        eventually(180, "it has a guest again", || {
            if shim_of(cloud, &healed).is_empty() { Err(cloud.show(&healed).to_string()) } else { Ok(()) }
        });
        cloud.wait_for_status(&healed, "Running");
        assert_eq!(cloud.exec(&healed, "echo well"), "well");
        cloud.delete(&healed);
        cloud.delete(&lost);
    });
}
