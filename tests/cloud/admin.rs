//! What an administrator sees of hosts and services, and does to them.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use serde_json::Value;

fn listed(cloud: &Cloud, words: &[&str]) -> Value {
    let said = cloud.openstack(&[&["appcontainer"], words, &["-f", "json"]].concat()).ok();
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// Waits until Placement is told that the host takes new containers, or that it does not.
fn wait_until_told(cloud: &Cloud, disabled: &str) {
    let query = "SELECT COUNT(*) FROM placement.resource_provider_traits t JOIN placement.traits n ON n.id = t.trait_id \
                 WHERE n.name = 'CUSTOM_ZUN_COMPUTE_STATUS_DISABLED'";
    eventually(150, "Placement is told", || {
        let count = cloud.sql(query);
        if count == disabled { Ok(()) } else { Err(count) }
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_host_is_shown_disabled_and_enabled() {
    in_cloud(|cloud| {
        let services = listed(cloud, &["service", "list"]);
        let service = services.as_array().unwrap().iter().find(|one| one["Binary"] == "zun-compute").unwrap();
        let host = service["Host"].as_str().unwrap();
        assert_eq!(
            (&service["State"], service["Disabled"].as_bool()),
            (&Value::from("up"), Some(false)),
            "{service}"
        );
        let zones = listed(cloud, &["availability", "zone", "list"]);
        assert_eq!(zones[0]["availability_zone"], service["Availability Zone"], "{zones}");

        let hosts = listed(cloud, &["host", "list"]);
        let uuid = hosts[0]["uuid"].as_str().unwrap();
        let running = cloud.run_busybox("sleep 100000");
        eventually(150, "the host's use is reported", || {
            let shown = listed(cloud, &["host", "show", uuid]);
            let used = (shown["cpu_used"].as_f64(), shown["mem_used"].as_i64());
            if shown["hostname"] == host && used.0 >= Some(1.0) && used.1 >= Some(128) {
                Ok(())
            } else {
                Err(shown.to_string())
            }
        });
        cloud.delete(&running);

        cloud
            .openstack(&[
                "appcontainer",
                "service",
                "disable",
                host,
                "zun-compute",
                "--reason",
                "maintenance",
            ])
            .ok();
        wait_until_told(cloud, "1");
        let refused = cloud.make("create", &[&BUSYBOX[..], &["busybox", "true"]].concat());
        let reason = cloud.wait_for_error(&refused);
        assert!(reason.contains("not enough hosts"), "{reason}");
        cloud.delete(&refused);
        cloud.openstack(&["appcontainer", "service", "enable", host, "zun-compute"]).ok();
        wait_until_told(cloud, "0");
        let taken = cloud.make("create", &[&BUSYBOX[..], &["busybox", "true"]].concat());
        cloud.wait_for_status(&taken, "Created");
        cloud.delete(&taken);

        cloud.openstack(&["appcontainer", "service", "forcedown", host, "zun-compute"]).ok();
        let down = || listed(cloud, &["service", "list"])[0]["State"].clone();
        assert_eq!(down(), "down");
        cloud.openstack(&["appcontainer", "service", "forcedown", "--unset", host, "zun-compute"]).ok();
        eventually(120, "it is up again", || if down() == "up" { Ok(()) } else { Err(down().to_string()) });
    });
}
