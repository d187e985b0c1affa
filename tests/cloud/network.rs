//! Containers on Neutron's networks.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::tenant::Tenant;
use serde_json::Value;

fn address(shown: &Value) -> String {
    shown["addresses"].as_str().unwrap().to_owned()
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

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_address_of_ipv6_is_had_as_asked() {
    in_cloud(|cloud| {
        let network = cloud.network("10.83.0.0/24");
        let name = network.name.as_str();
        let six = ["--ip-version", "6", "--subnet-range", "fd00:83::/64", "six"];
        cloud.openstack(&[&["subnet", "create", "--network", name], &six[..]].concat()).ok();
        let net = format!("network={name},v6-fixed-ip=fd00:83::77");
        let uuid =
            cloud.make("run", &[&BUSYBOX[..4], &["--net", &net, "busybox", "sleep", "100000"]].concat());
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(address(&cloud.show(&uuid)), "fd00:83::77");
        let inside = cloud.openstack(&["appcontainer", "exec", &uuid, "ip", "-6", "address"]).ok();
        assert!(inside.contains("inet6 fd00:83::77/64"), "{inside}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_shared_network_is_for_all_and_an_external_one_for_administrators() {
    in_cloud(|cloud| {
        let (shared, outside) = (cloud.network("10.84.0.0/24"), cloud.network("10.85.0.0/24"));
        cloud.openstack(&["network", "set", "--share", &shared.name]).ok();
        cloud.openstack(&["network", "set", "--external", &outside.name]).ok();
        let tenant = Tenant::new(cloud, "tenant");
        let uuid = tenant.runs(&["--net", &format!("network={}", shared.name)]);
        let project = cloud.sql(&format!("SELECT project_id FROM neutron.ports WHERE device_id = '{uuid}'"));
        assert_eq!(
            project,
            cloud.sql(&format!("SELECT id FROM keystone.project WHERE name = '{}'", tenant.name()))
        );
        cloud.delete(&uuid);

        let net = format!("network={}", outside.name);
        let said = tenant.run(&["--net", &net]).err;
        assert!(said.contains("not allowed to create an interface on external network"), "{said}");
        let words = [&BUSYBOX[..4], &["--net", &net, "busybox", "sleep", "100000"]];
        let uuid = cloud.make("run", &words.concat());
        cloud.wait_for_status(&uuid, "Running");
        assert!(address(&cloud.show(&uuid)).starts_with("10.85.0."));
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn who_asks_for_no_network_is_on_the_projects_own() {
    in_cloud(|cloud| {
        let tenant = Tenant::new(cloud, "owner");
        let said = tenant.run(&[]).err;
        assert!(said.contains("no neutron network available"), "{said}");
        tenant.openstack(&["network", "create", "own"]).ok();
        let subnet = ["subnet", "create", "--network", "own", "--subnet-range", "10.86.0.0/24", "own"];
        tenant.openstack(&subnet).ok();
        let uuid = tenant.runs(&[]);
        assert!(address(&cloud.show(&uuid)).starts_with("10.86.0."));
        cloud.delete(&uuid);
        tenant.openstack(&["network", "delete", "own"]).ok();
    });
}

fn links(cloud: &Cloud, uuid: &str) -> String {
    cloud.openstack(&["appcontainer", "exec", uuid, "ip", "-o", "-4", "address"]).out
}

/// Waits until the container's interfaces have these addresses, by the beginning of each.
fn wait_for_addresses(cloud: &Cloud, uuid: &str, wanted: &[&str]) {
    eventually(90, &format!("it has addresses {wanted:?}"), || {
        let shown = address(&cloud.show(uuid));
        let (inside, outside) = (links(cloud, uuid), shown.split(", ").count());
        let count = inside.lines().filter(|line| line.contains("inet") && !line.contains(" lo ")).count();
        let all =
            wanted.iter().all(|start| inside.contains(&format!("inet {start}")) && shown.contains(start));
        if all && count == wanted.len() && outside == wanted.len() {
            Ok(())
        } else {
            Err(format!("{inside}{shown}"))
        }
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_network_comes_and_goes() {
    in_cloud(|cloud| {
        let second = cloud.network("10.78.0.0/24");
        let uuid = cloud.run_busybox("sleep 100000");
        let change = |verb: &str| {
            cloud.openstack(&["appcontainer", "network", verb, "--network", &second.name, &uuid])
        };
        change("attach").ok();
        wait_for_addresses(cloud, &uuid, &["10.77.0.", "10.78.0."]);
        let again = change("attach");
        assert!(again.out.contains("already connected"), "{again:?}");
        cloud.openstack(&["appcontainer", "restart", &uuid]).ok();
        wait_for_addresses(cloud, &uuid, &["10.77.0.", "10.78.0."]);
        change("detach").ok();
        wait_for_addresses(cloud, &uuid, &["10.77.0."]);
        assert_eq!(cloud.ports_of(&uuid).len(), 1);

        cloud.openstack(&["appcontainer", "stop", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Stopped");
        change("attach").ok();
        eventually(60, "it has a second port", || {
            let ports = cloud.ports_of(&uuid);
            if ports.len() == 2 { Ok(()) } else { Err(format!("{ports:?}")) }
        });
        cloud.wait_for_status(&uuid, "Stopped");
        cloud.openstack(&["appcontainer", "start", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        wait_for_addresses(cloud, &uuid, &["10.77.0.", "10.78.0."]);
        let query = format!(
            "SELECT action, IFNULL(message, '-') FROM zun.container_actions WHERE container_uuid = '{uuid}' AND action LIKE 'network%'"
        );
        let actions = cloud.sql(&query);
        assert!(
            actions.lines().count() == 3 && actions.lines().all(|line| line.ends_with("\t-")),
            "{actions}"
        );
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_security_group_comes_and_goes() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("sleep 100000");
        let groups = || {
            let query = format!(
                "SELECT g.name FROM neutron.ports p JOIN neutron.securitygroupportbindings b ON b.port_id = p.id
                 JOIN neutron.securitygroups g ON g.id = b.security_group_id WHERE p.device_id = '{uuid}' ORDER BY g.name"
            );
            cloud.sql(&query).lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let settle = |wanted: &[&str]| {
            eventually(60, &format!("its port has the groups {wanted:?}"), || {
                if groups() == wanted { Ok(()) } else { Err(format!("{:?}", groups())) }
            });
            cloud.wait_for_status(&uuid, "Running");
        };
        let extra =
            cloud.openstack(&["security", "group", "create", "extra", "-f", "value", "-c", "id"]).ok();
        settle(&["default"]);
        // Zun took these calls away with version 1.15 of its API.
        let change = |verb| {
            let old = ["--os-container-api-version", "1.14", "appcontainer", verb];
            cloud.openstack(&[&old[..], &["security", "group", &uuid, extra.trim()]].concat()).ok();
        };
        change("add");
        settle(&["default", "extra"]);
        let shown = cloud.show(&uuid)["security_groups"].to_string();
        assert!(shown.contains(extra.trim()), "{shown}");
        change("remove");
        settle(&["default"]);
        cloud.openstack(&["security", "group", "delete", extra.trim()]).ok();
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn zuns_own_networks_come_and_go() {
    in_cloud(|cloud| {
        let network = cloud.network("10.79.0.0/24");
        let id = cloud.sql(&format!("SELECT id FROM neutron.networks WHERE name = '{}'", network.name));
        let create = || {
            cloud.request("POST", "networks", &format!("{{\"neutron_net_id\": \"{id}\", \"name\": \"own\"}}"))
        };
        let made = create();
        assert_eq!(made["neutron_net_id"], id.as_str(), "{made}");
        assert_eq!(create()["uuid"], made["uuid"], "there is one of it");
        let uuid = made["uuid"].as_str().unwrap();
        let place = ["--cpu", "1", "--memory", "128", "--image-pull-policy", "ifnotpresent", "--net"];
        let own = format!("network={}", network.name);
        let user = cloud.make("create", &[&place[..], &[&own, "busybox", "true"]].concat());
        cloud.wait_for_status(&user, "Created");
        let refused = cloud.request("DELETE", &format!("networks/{id}"), "");
        assert!(refused.to_string().contains("in use"), "{refused}");
        cloud.delete(&user);
        assert_eq!(cloud.request("DELETE", &format!("networks/{id}"), ""), serde_json::Value::Null);
        assert_eq!(cloud.sql(&format!("SELECT id FROM zun.network WHERE uuid = '{uuid}'")), "");
        let missing =
            cloud.request("POST", "networks", "{\"neutron_net_id\": \"not-there\", \"name\": \"own\"}");
        assert_eq!(missing["errors"][0]["status"], 404, "{missing}");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn exposed_ports_are_let_through_by_a_group_that_goes_with_the_container() {
    in_cloud(|cloud| {
        let place =
            ["--cpu", "1", "--memory", "128", "--image-pull-policy", "ifnotpresent", "--net", "network=net"];
        let exposed = ["--expose-port", "8000", "--expose-port", "53/udp"];
        let uuid = cloud.make("create", &[&place[..], &exposed, &["busybox", "true"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        let rules = || {
            cloud.sql(&format!(
                "SELECT r.protocol, r.port_range_min, r.remote_ip_prefix FROM neutron.securitygrouprules r
                 JOIN neutron.securitygroups g ON g.id = r.security_group_id
                 JOIN neutron.securitygroupportbindings b ON b.security_group_id = g.id
                 JOIN neutron.ports p ON p.id = b.port_id
                 WHERE p.device_id = '{uuid}' AND g.name = 'zun-{uuid}' AND r.direction = 'ingress' ORDER BY r.protocol"
            ))
        };
        assert_eq!(rules(), "tcp\t8000\t0.0.0.0/0\nudp\t53\t0.0.0.0/0");
        assert!(cloud.show(&uuid)["ports"].to_string().contains("8000"), "{}", cloud.show(&uuid));
        cloud.delete(&uuid);
        let left = cloud.sql(&format!("SELECT id FROM neutron.securitygroups WHERE name = 'zun-{uuid}'"));
        assert_eq!(left, "");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn what_neutron_refuses_is_said_in_its_words() {
    in_cloud(|cloud| {
        let network = cloud.network("10.83.0.0/24");
        let refused = |net: &str| {
            let words = [&BUSYBOX[..4], &["--net", net, "busybox", "true"]].concat();
            let uuid = cloud.make("create", &words);
            let reason = cloud.wait_for_error(&uuid);
            cloud.delete(&uuid);
            reason
        };
        let name = network.name.as_str();
        let taken = cloud
            .openstack(&[
                "port",
                "create",
                "--network",
                name,
                "--fixed-ip",
                "ip-address=10.83.0.50",
                "taken",
                "-f",
                "value",
                "-c",
                "id",
            ])
            .ok();
        let reason = refused(&format!("network={name},v4-fixed-ip=10.83.0.50"));
        assert!(reason.contains("10.83.0.50") && reason.contains("already allocated"), "{reason}");
        let reason = refused(&format!("network={name},v4-fixed-ip=192.0.2.1"));
        assert!(reason.contains("192.0.2.1"), "{reason}");
        cloud.openstack(&["port", "delete", taken.trim()]).ok();

        let quota =
            |ports: &str| cloud.openstack(&["quota", "set", "--force", "--ports", ports, "admin"]).ok();
        quota("0");
        let reason = refused(&format!("network={name}"));
        quota("500");
        assert!(reason.contains("Quota exceeded for resources: ['port']"), "{reason}");
    });
}
