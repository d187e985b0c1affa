//! Sandboxes without OpenStack, and an operator's look into all of a host.

use cloud_tests::cloud::{Cloud, Said, in_cloud};
use cloud_tests::eventually;

const PROGRAM: [&str; 4] =
    ["target/release/zun-kata-compute", "--config-file", ".cache/devstack/etc/host/zun-kata.conf", "sandbox"];

fn sandbox(cloud: &Cloud, arguments: &[&str]) -> Said {
    cloud.on_host(&[&PROGRAM[..], arguments].concat())
}

/// The line of a sandbox in the list, its words separated by one space.
fn listed(cloud: &Cloud, name: &str) -> Option<String> {
    let list = sandbox(cloud, &["list"]).ok();
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_operator_runs_an_image_without_openstack() {
    in_cloud(|cloud| {
        let small = ["run", "--memory", "64", "--disk", "1"];
        let ended = sandbox(
            cloud,
            &[&small[..], &["--wait", "--env", "A=b", "busybox", "sh", "-c", "echo $A; exit 3"]].concat(),
        );
        assert_eq!((ended.status, ended.out.as_str()), (3, "b\n"), "{ended:?}");

        let name =
            sandbox(cloud, &[&small[..], &["busybox", "sh", "-c", "echo begun; sleep 100000"]].concat());
        let name = name.ok().trim().to_owned();
        assert_eq!(listed(cloud, &name).unwrap(), format!("{name} operator running runs"));
        let exec = sandbox(cloud, &["exec", &name, "sh", "-c", "echo in it; exit 4"]);
        assert_eq!((exec.status, exec.out.as_str()), (4, "in it\n"), "{exec:?}");
        assert_eq!(sandbox(cloud, &["logs", &name]).ok(), "begun\n");
        assert!(sandbox(cloud, &["stats", &name]).ok().contains("of 64 MiB"));
        sandbox(cloud, &["update", &name, "--memory", "192"]).ok();
        assert!(sandbox(cloud, &["stats", &name]).ok().contains("of 192 MiB"));
        let refused = sandbox(cloud, &["update", &name, "--memory", "1000000"]);
        assert!(refused.status != 0 && refused.err.contains("room for"), "{refused:?}");
        sandbox(cloud, &["pause", &name]).ok();
        assert_eq!(listed(cloud, &name).unwrap(), format!("{name} operator paused runs"));
        sandbox(cloud, &["resume", &name]).ok();
        sandbox(cloud, &["delete", &name]).ok();
        assert_eq!(listed(cloud, &name), None);

        let missing = sandbox(cloud, &["delete", &name]);
        assert!(missing.status != 0 && missing.err.contains(&name), "{missing:?}");
        let unknown = sandbox(cloud, &[&small[..], &["no-such-image", "true"]].concat());
        assert!(unknown.status != 0 && unknown.err.contains("no-such-image"), "{unknown:?}");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_operator_says_more_of_a_container_than_zun_can() {
    in_cloud(|cloud| {
        let patch = "/tmp/zun-kata-patch.json";
        cloud.shell(&format!(r#"echo '{{"hostname": "patched", "root": {{"readonly": true}}}}' >{patch}"#));
        let script = "hostname; grep CapEff /proc/self/status; touch /x || echo read-only";
        let run = ["run", "--memory", "64", "--disk", "1", "--wait", "--oci", patch, "--privileged"];
        let limits = ["--disk-bytes", "10000000", "--disk-operations", "1000"];
        let ended = sandbox(cloud, &[&run[..], &limits, &["busybox", "sh", "-c", script]].concat());
        assert_eq!(ended.status, 0, "{ended:?}");
        for text in ["patched\n", "CapEff:\t000001ffffffffff", "read-only"] {
            assert!(ended.out.contains(text), "{ended:?}");
        }
        cloud.shell(&format!("echo nonsense >{patch}"));
        let refused = sandbox(cloud, &[&run[..], &["busybox", "true"]].concat());
        assert!(refused.status != 0 && refused.err.contains(patch), "{refused:?}");
        cloud.shell(&format!("rm {patch}"));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_operator_looks_into_zuns_sandboxes_and_deletes_none() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("echo of Zun; sleep 100000");
        assert_eq!(listed(cloud, &uuid).unwrap(), format!("{uuid} Zun running runs"));
        eventually(30, "its log is there", || match sandbox(cloud, &["logs", &uuid]).ok() {
            log if log == "of Zun\n" => Ok(()),
            log => Err(log),
        });
        let refused = sandbox(cloud, &["delete", &uuid]);
        assert!(refused.status != 0 && refused.err.contains("openstack appcontainer"), "{refused:?}");
        assert_eq!(sandbox(cloud, &["exec", &uuid, "true"]).status, 0);
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn metrics_tell_of_zuns_containers() {
    in_cloud(|cloud| {
        let ask = |path: &str| cloud.on_host(&["curl", "-sS", &format!("http://127.0.0.1:9517{path}")]).ok();
        let uuids = [cloud.run_busybox("sleep 100000"), cloud.run_busybox("sleep 100000")];
        let text = ask("/metrics");
        let value = |name: &str, uuid: &str, label: &str| -> f64 {
            let own = |line: &&str| line.starts_with(name) && line.contains(uuid) && line.contains(label);
            let line = text.lines().find(own).unwrap_or_else(|| panic!("no {name} of {uuid} in {text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        for uuid in &uuids {
            assert!(value("zun_kata_boot_seconds", uuid, "stage=\"process_running\"") > 0.0);
            assert!(value("zun_kata_resident_bytes", uuid, "") > value("zun_kata_shared_bytes", uuid, ""));
            assert!(value("zun_kata_vcpu_seconds", uuid, "") > 0.0);
            assert!(value("zun_kata_container_pids", uuid, "") >= 1.0);
            assert!(value("zun_kata_network_bytes", uuid, "direction=\"send\"") > 0.0);
            let image = format!("device=\"image-{uuid}\",direction=\"to_guest\"");
            assert!(value("zun_kata_device_bytes", uuid, &image) > 0.0);
            assert!(value("zun_kata_device_operations", uuid, &image) > 0.0);
        }
        // One project's containers of one shape: the first, of this or an earlier test, made the template.
        assert_eq!(value("zun_kata_from_template", &uuids[1], ""), 1.0);
        uuids.iter().for_each(|uuid| cloud.delete(uuid));
        assert!(!ask("/metrics").contains(&uuids[0]), "what is gone is not told of");
    });
}
