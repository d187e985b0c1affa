//! Containers on Neutron's networks.

use cloud_tests::cloud::in_cloud;
use cloud_tests::eventually;
use serde_json::Value;

fn address(shown: &Value) -> String {
    shown["addresses"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn two_containers_on_one_network_ping_each_other() {
    in_cloud(|cloud| {
        let uuids = [cloud.run_busybox("sleep 100000"), cloud.run_busybox("sleep 100000")];
        let addresses = uuids.each_ref().map(|uuid| address(&cloud.show(uuid)));
        assert_ne!(addresses[0], addresses[1]);
        for (uuid, other) in uuids.iter().zip(addresses.iter().rev()) {
            eventually(60, "a ping is answered", || {
                let said =
                    cloud.openstack(&["appcontainer", "exec", uuid, "ping", "-c", "2", "-W", "3", other]);
                if said.status == 0 { Ok(()) } else { Err(said.out) }
            });
        }
        uuids.iter().for_each(|uuid| cloud.delete(uuid));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_port_of_the_users_is_used_and_kept() {
    in_cloud(|cloud| {
        let port = cloud
            .openstack(&[
                "port",
                "create",
                "--network",
                "net",
                "--fixed-ip",
                "ip-address=10.77.0.99",
                "mine",
                "-f",
                "value",
                "-c",
                "id",
            ])
            .ok();
        let port = port.trim();
        let uuid = cloud.make(
            "run",
            &[
                "--cpu",
                "1",
                "--memory",
                "128",
                "--net",
                &format!("port={port}"),
                "--image-pull-policy",
                "ifnotpresent",
                "busybox",
                "sleep",
                "100000",
            ],
        );
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(address(&cloud.show(&uuid)), "10.77.0.99");
        cloud.delete(&uuid);
        let left = cloud.sql(&format!("SELECT device_id FROM neutron.ports WHERE id = '{port}'"));
        assert_eq!(left, "", "the port is there, and nobody's");
        assert_eq!(cloud.sql(&format!("SELECT COUNT(*) FROM neutron.ports WHERE id = '{port}'")), "1");
        cloud.openstack(&["port", "delete", port]).ok();
    });
}
