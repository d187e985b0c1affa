//! The service dies, comes back, and meets messages that nobody should send.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud, service_log};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use cloud_tests::relay::{self, Relay};

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_outlive_the_service() {
    in_cloud(|cloud| {
        let stays = cloud.run_busybox("while :; do date +%s; sleep 1; done");
        let ends = cloud.run_busybox("until [ -e /end ]; do sleep 0.1; done; echo good-bye; exit 5");
        cloud
            .openstack(&[
                "appcontainer",
                "exec",
                &ends,
                "sh",
                "-c",
                "(sleep 6; touch /end) >/dev/null 2>&1 &",
            ])
            .ok();
        let killed = Killed::now(cloud);
        let sandbox = format!("/var/lib/zun-kata/sandboxes/{ends}");
        eventually(60, "it ends while nobody looks", || {
            let alive = cloud.on_host(&["pgrep", "-f", &format!("[k]ata-shim {sandbox}")]);
            if alive.status == 0 { Err("its shim lives".into()) } else { Ok(()) }
        });
        killed.revive();
        cloud.wait_for_status(&ends, "Stopped");
        let shown = cloud.show(&ends);
        assert!(shown["status_detail"].as_str().unwrap().starts_with("Exited(5)"), "{shown}");
        assert!(cloud.openstack(&["appcontainer", "logs", &ends]).ok().contains("good-bye"));

        assert_eq!(cloud.show(&stays)["status"], "Running");
        let log = cloud.openstack(&["appcontainer", "logs", &stays]).ok();
        let seconds: Vec<i64> = log.lines().filter_map(|line| line.trim().parse().ok()).collect();
        assert!(seconds.len() > 5, "{log}");
        let gap = seconds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(gap < 10, "no line was lost while the service was dead: {log}");
        assert_eq!(cloud.openstack(&["appcontainer", "exec", &stays, "true"]).status, 0);
        cloud.delete(&stays);
        cloud.delete(&ends);
    });
}

/// Makes a container, kills the service as soon as `begun` says that its creation got so far, and deletes what it left.
fn interrupt_create(cloud: &Cloud, begun: impl Fn(&str) -> bool) {
    let uuid = cloud.make("run", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
    eventually(30, "its creation has begun", || if begun(&uuid) { Ok(()) } else { Err(String::new()) });
    Killed::now(cloud).revive();
    eventually(60, "it is settled", || {
        let now = cloud
            .sql(&format!("SELECT status, IFNULL(task_state, '-') FROM zun.container WHERE uuid = '{uuid}'"));
        if ["Error\t-", "Running\t-", "Created\t-", "Stopped\t-"].contains(&now.as_str()) {
            Ok(())
        } else {
            Err(now)
        }
    });
    cloud.delete(&uuid);
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_create_that_was_interrupted_leaves_nothing() {
    in_cloud(|cloud| {
        interrupt_create(cloud, |uuid| cloud.shell("ls /var/lib/zun-kata/sandboxes").contains(uuid));
        interrupt_create(cloud, |uuid| {
            !cloud.sql(&format!("SELECT id FROM neutron.ports WHERE device_id = '{uuid}'")).is_empty()
        });
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_attach_that_was_interrupted_leaves_no_port() {
    in_cloud(|cloud| {
        let second = cloud.network("10.78.0.0/24");
        let uuid = cloud.run_busybox("sleep 100000");
        cloud.openstack(&["appcontainer", "network", "attach", "--network", &second.name, &uuid]).ok();
        eventually(30, "its port is there", || {
            if cloud.ports_of(&uuid).len() == 2 { Ok(()) } else { Err(String::new()) }
        });
        Killed::now(cloud).revive();
        cloud.wait_for_status(&uuid, "Running");
        // The attach had come to its end, or is taken back.
        let networks = cloud.show(&uuid)["addresses"].as_str().unwrap().split(", ").count();
        assert_eq!(cloud.ports_of(&uuid).len(), networks);
        assert_eq!(cloud.openstack(&["appcontainer", "exec", &uuid, "true"]).status, 0);
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_start_that_was_interrupted_is_done_again() {
    in_cloud(|cloud| {
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sleep", "100000"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        cloud.openstack(&["appcontainer", "start", &uuid]).ok();
        eventually(30, "its guest comes up", || {
            let shim = cloud.on_host(&["pgrep", "-f", &format!("[k]ata-shim .*{uuid}")]);
            if shim.status == 0 { Ok(()) } else { Err(shim.err) }
        });
        Killed::now(cloud).revive();
        cloud.wait_for_status(&uuid, "Running");
        assert_eq!(cloud.openstack(&["appcontainer", "exec", &uuid, "true"]).status, 0);
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn the_service_waits_for_what_it_needs() {
    let needs = [(3306, "the database"), (5000, "Keystone"), (5672, "RabbitMQ")];
    in_cloud(|cloud| {
        if !relay::exist(cloud) {
            return;
        }
        let killed = Killed::now(cloud);
        let lines_before = service_log(cloud).lines().count();
        let relays = needs.map(|(port, what)| (Relay::cut(cloud, port), what));
        killed.start();
        for (relay, what) in relays {
            eventually(120, &format!("it says that it waits for {what}"), || {
                let log = service_log(cloud);
                let mut lines = log.lines().skip(lines_before);
                let says_so = lines.any(|line| line.contains(&format!("waiting for {what}")));
                if says_so { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
            });
            relay.join();
        }
        killed.wait_until_it_serves();
    });
}
