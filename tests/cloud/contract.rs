//! Small things in which upstream's compute service is to be matched.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::registry::{Layout, Registry};
use serde_json::{Value, json};

use crate::capsules;
use crate::images::PORT;

fn make(cloud: &Cloud, verb: &str, words: &[&str]) -> String {
    cloud.make(verb, &[&BUSYBOX[..], words].concat())
}

fn created(cloud: &Cloud, words: &[&str]) -> String {
    let uuid = cloud.make("create", words);
    cloud.wait_for_status(&uuid, "Created");
    uuid
}

fn logs(cloud: &Cloud, uuid: &str) -> String {
    cloud.openstack(&["appcontainer", "logs", uuid]).ok()
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_was_never_made_is_not_rebuilt() {
    in_cloud(|cloud| {
        let uuid = make(cloud, "run", &["127.0.0.1:5001/no-such-image", "sleep", "100000"]);
        cloud.wait_for_error(&uuid);
        cloud.openstack(&["appcontainer", "rebuild", "--image", "busybox", &uuid]).ok();
        let failed = format!(
            "SELECT COUNT(*) FROM zun.container_actions WHERE container_uuid = '{uuid}' AND action = 'rebuild' \
             AND finish_time IS NOT NULL AND message = 'Error'"
        );
        eventually(120, "the rebuild failed", || match cloud.sql(&failed) {
            count if count == "1" => Ok(()),
            count => Err(count),
        });
        let reason = cloud.wait_for_error(&uuid);
        assert!(!reason.is_empty());
        let held = format!(
            "SELECT id FROM neutron.ports WHERE device_id = '{uuid}' \
             UNION SELECT consumer_id FROM placement.allocations WHERE consumer_id = '{uuid}'"
        );
        assert_eq!(cloud.sql(&held), "");
        assert!(!cloud.shell("ls /var/lib/zun-kata/sandboxes").contains(&uuid));
        cloud.openstack(&["appcontainer", "delete", &uuid]).ok();
        cloud.wait_until_gone(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_run_whose_command_is_missing_leaves_a_container_to_delete_or_to_rebuild() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, None);
        let name = format!("sleeps-{}", std::process::id());
        let entrypoint = ["/bin/sh", "-c", "exec sleep 100000"];
        let options: Vec<&str> = entrypoint.iter().flat_map(|word| ["--config.entrypoint", word]).collect();
        registry.push(&Layout::busybox().configured(&options), &name, &[]);
        let run = |_: usize| make(cloud, "run", &["busybox", "no-such-program"]);
        let [rebuilt, deleted] = [0, 1].map(run);
        for uuid in [&rebuilt, &deleted] {
            let reason = cloud.wait_for_error(uuid);
            assert!(reason.contains("no-such-program"), "{reason}");
            let shown = cloud.show(uuid);
            assert!(shown["host"].is_string(), "{shown}");
            assert_eq!(cloud.ports_of(uuid).len(), 1, "it keeps its address");
        }
        let ports = cloud.ports_of(&rebuilt);
        let image = format!("{}/{name}", registry.address());
        cloud.act(&["rebuild", "--image", &image], &rebuilt, "Created");
        cloud.act(&["start"], &rebuilt, "Running");
        assert_eq!(cloud.exec(&rebuilt, "echo works"), "works");
        assert_eq!(cloud.ports_of(&rebuilt), ports);
        cloud.delete(&rebuilt);
        cloud.openstack(&["appcontainer", "delete", &deleted]).ok();
        cloud.wait_until_gone(&deleted);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_network_that_is_attached_has_the_projects_own_security_group() {
    in_cloud(|cloud| {
        let second = cloud.network("10.90.0.0/24");
        let uuid = created(cloud, &[&BUSYBOX[..], &["busybox", "true"]].concat());
        cloud.openstack(&["appcontainer", "network", "attach", "--network", &second.name, &uuid]).ok();
        let query = format!(
            "SELECT p.id, IFNULL(g.name, 'none'), IFNULL(g.project_id = p.project_id, 0) FROM neutron.ports p \
             LEFT JOIN neutron.securitygroupportbindings b ON b.port_id = p.id \
             LEFT JOIN neutron.securitygroups g ON g.id = b.security_group_id WHERE p.device_id = '{uuid}'"
        );
        eventually(60, "both ports have the project's default group", || {
            let groups = cloud.sql(&query);
            let all = groups.lines().all(|line| line.ends_with("\tdefault\t1"));
            if all && groups.lines().count() == 2 { Ok(()) } else { Err(groups) }
        });
        cloud.wait_for_status(&uuid, "Created");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_number_of_cpus_comes_back_as_it_was_given() {
    in_cloud(|cloud| {
        let words = ["--cpu", "0.1", "--memory", "128", "--net", "network=net", "busybox", "true"];
        let uuid = created(cloud, &words);
        assert_eq!(cloud.show(&uuid)["cpu"].to_string(), "0.1");
        let said = cloud.openstack(&["appcontainer", "set", "--cpu", "0.7", "-f", "json", &uuid]).ok();
        let set: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(set["cpu"].to_string(), "0.7");
        assert_eq!(cloud.show(&uuid)["cpu"].to_string(), "0.7");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn all_that_the_api_lets_be_set_is_set_at_once() {
    in_cloud(|cloud| {
        let uuid = created(cloud, &[&BUSYBOX[..], &["busybox", "true"]].concat());
        let name = format!("renamed-{}", std::process::id());
        let said = cloud.openstack(&[
            "appcontainer",
            "set",
            "--cpu",
            "2",
            "--memory",
            "192",
            "--name",
            &name,
            "--auto-heal",
            &uuid,
        ]);
        assert_eq!(said.status, 0, "{said:?}");
        let shown = cloud.show(&uuid);
        assert_eq!((shown["cpu"].as_f64(), shown["memory"].as_str()), (Some(2.0), Some("192")), "{shown}");
        assert_eq!((&shown["name"], &shown["auto_heal"]), (&json!(name), &json!(true)), "{shown}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_entry_point_of_its_own_is_given_the_images_command() {
    in_cloud(|cloud| {
        // The image's command is `sh`.
        let uuid = make(cloud, "run", &["--entrypoint", "/bin/echo began", "busybox"]);
        cloud.wait_for_status(&uuid, "Stopped");
        assert_eq!(logs(cloud, &uuid).trim(), "began sh");
        let shown = cloud.show(&uuid);
        assert_eq!(
            (&shown["entrypoint"], &shown["command"]),
            (&json!(["/bin/echo", "began"]), &json!(["sh"]))
        );
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_hash_in_a_command_begins_no_comment() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("sleep 100000");
        cloud.exec(&uuid, "echo '# found' >/file");
        let said = cloud.openstack(&["appcontainer", "exec", &uuid, "grep", "#", "/file"]).ok();
        assert_eq!(said.trim(), "# found");
        // The command line puts each word in quotes, others do not.
        let asked = format!("containers/{uuid}/execute?command=grep%20%23%20/file");
        let said = cloud.request("POST", &asked, "");
        assert_eq!((&said["output"], &said["exit_code"]), (&json!("# found\n"), &json!(0)), "{said}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_signal_that_ends_a_container_slowly_ends_it_for_good() {
    in_cloud(|cloud| {
        let command = "trap 'sleep 4; exit 0' TERM; echo began; while :; do sleep 0.2; done";
        let uuid = make(cloud, "run", &["--restart", "always", "busybox", "sh", "-c", command]);
        cloud.wait_for_status(&uuid, "Running");
        eventually(30, "it listens to signals", || match logs(cloud, &uuid) {
            log if log.contains("began") => Ok(()),
            log => Err(log),
        });
        cloud.act(&["kill", "--signal", "TERM"], &uuid, "Stopped");
        // Longer than the pause before a restart.
        eventually(60, "it has been stopped for a while", || {
            let shown = cloud.show(&uuid);
            assert_eq!(shown["status"], "Stopped", "{shown}");
            let detail = shown["status_detail"].as_str().unwrap_or_default();
            let seconds = detail.split_whitespace().find_map(|word| word.parse::<u32>().ok());
            if seconds.is_some_and(|seconds| seconds >= 5) { Ok(()) } else { Err(shown.to_string()) }
        });
        assert_eq!(logs(cloud, &uuid).matches("began").count(), 1);
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_of_a_capsule_tell_their_ports_and_their_name() {
    in_cloud(|cloud| {
        let container = json!({
            "image": "busybox",
            "imagePullPolicy": "ifnotpresent",
            "command": ["sh", "-c"],
            "args": ["hostname; sleep 100000"],
            "ports": [{ "containerPort": 8000 }],
            "resources": { "requests": { "cpu": 1, "memory": 128 } },
        });
        let template = json!({
            "capsuleVersion": "beta",
            "kind": "capsule",
            "metadata": { "name": "telling" },
            "spec": { "restartPolicy": "Never", "containers": [container] },
        });
        let made = cloud.request("POST", "capsules", &json!({ "template": template }).to_string());
        let uuid = made["uuid"].as_str().unwrap_or_else(|| panic!("{made}"));
        let shown = eventually(240, "the capsule runs", || {
            let shown = cloud.api(&format!("capsules/{uuid}"));
            if shown["status"] == "Running" { Ok(shown) } else { Err(shown.to_string()) }
        });
        let one = &shown["containers"][0];
        assert_eq!((&one["ports"], &one["runtime"]), (&json!([8000]), &json!("kata")), "{shown}");
        let hostname = one["hostname"].as_str().filter(|name| !name.is_empty());
        let hostname = hostname.unwrap_or_else(|| panic!("{shown}"));
        eventually(30, "it has this name", || {
            let log = capsules::logs(cloud, uuid);
            if log.contains(hostname) { Ok(()) } else { Err(log) }
        });
        cloud.openstack(&["capsule", "delete", uuid]).ok();
        cloud.wait_until_gone(uuid);
    });
}
