//! The service dies, comes back, and meets messages that nobody should send.

use cloud_tests::cloud::{Cloud, in_cloud, service_log};
use cloud_tests::eventually;

fn kill_service(cloud: &Cloud) {
    cloud.shell("kill -9 $(pgrep -x zun-kata-comput)");
    eventually(20, "the service is dead", || {
        let alive = cloud.on_host(&["pgrep", "-x", "zun-kata-comput"]);
        if alive.status == 0 { Err(alive.out) } else { Ok(()) }
    });
}

fn start_service(cloud: &Cloud) {
    let before = service_log(cloud).matches("serving RPC").count();
    cloud.on_host(&["devstack/host", "start"]).ok();
    eventually(120, "the service serves again", || {
        let log = service_log(cloud);
        if log.matches("serving RPC").count() > before { Ok(()) } else { Err(log) }
    });
}

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
        kill_service(cloud);
        let sandbox = format!("/var/lib/zun-kata/sandboxes/{ends}");
        eventually(60, "it ends while nobody looks", || {
            let alive = cloud.on_host(&["pgrep", "-f", &format!("kata-shim {sandbox}")]);
            if alive.status == 0 { Err("its shim lives".into()) } else { Ok(()) }
        });
        start_service(cloud);
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

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_create_that_was_interrupted_leaves_nothing() {
    in_cloud(|cloud| {
        let uuid = cloud.make(
            "run",
            &["--cpu", "1", "--memory", "128", "--net", "network=net", "busybox", "sleep", "100000"],
        );
        eventually(30, "its sandbox is there", || {
            let sandboxes = cloud.shell("ls /var/lib/zun-kata/sandboxes");
            if sandboxes.contains(&uuid) { Ok(()) } else { Err(sandboxes) }
        });
        kill_service(cloud);
        start_service(cloud);
        eventually(60, "it is settled", || {
            let now = cloud.sql(&format!(
                "SELECT status, IFNULL(task_state, '-') FROM zun.container WHERE uuid = '{uuid}'"
            ));
            if ["Error\t-", "Running\t-", "Created\t-", "Stopped\t-"].contains(&now.as_str()) {
                Ok(())
            } else {
                Err(now)
            }
        });
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn the_service_waits_for_the_broker() {
    in_cloud(|cloud| {
        // The lab's way to the broker is cut, and comes back.
        let relays = "pgrep -f 'TCP-LISTEN:5672,'";
        if cloud.on_host(&["sh", "-c", &format!("{relays} >/dev/null")]).status != 0 {
            return;
        }
        kill_service(cloud);
        cloud.shell(&format!("kill $({relays})"));
        cloud.on_host(&["devstack/host", "start"]).ok();
        eventually(60, "it says what it waits for", || {
            let log = service_log(cloud);
            let last = log.lines().rev().take(3).collect::<String>();
            if last.contains("waiting for RabbitMQ at") { Ok(()) } else { Err(last) }
        });
        let before = service_log(cloud).matches("serving RPC").count();
        cloud.shell(
            "setsid socat TCP-LISTEN:5672,bind=127.0.0.1,fork,reuseaddr TCP:10.0.2.2:5672 </dev/null >/dev/null 2>&1 &",
        );
        eventually(90, "it goes on", || {
            let log = service_log(cloud);
            if log.matches("serving RPC").count() > before { Ok(()) } else { Err(log) }
        });
    });
}
