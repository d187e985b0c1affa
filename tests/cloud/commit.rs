//! Containers that become images of Glance.

use std::path::Path;
use std::process::Command;

use cloud_tests::cloud::{BUSYBOX, Cloud, Said, in_cloud};
use cloud_tests::docker::Docker;
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use serde_json::Value;

const CHANGE: &str = "echo changed >/new; rm /bin/vi; rm -r /var/www; mkdir /var/www; echo in >/var/www/x; sync; \
    while :; do sleep 1; done";

/// Commits a container and gives the image's identifier.
fn commit(cloud: &Cloud, container: &str, name: &str) -> String {
    let said = cloud.openstack(&["appcontainer", "commit", container, name]).ok();
    let words = said.split_whitespace().map(|word| word.trim_end_matches('.'));
    let uuid = words.rev().find(|word| word.len() == 36 && word.matches('-').count() == 4);
    uuid.filter(|uuid| *uuid != container).unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn image(cloud: &Cloud, id: &str) -> Value {
    serde_json::from_str(&cloud.openstack(&["image", "show", "-f", "json", id]).ok()).unwrap()
}

fn wait_until_active(cloud: &Cloud, id: &str) {
    eventually(120, "the image is active", || {
        let status = cloud.sql(&format!("SELECT status FROM glance.images WHERE id = '{id}'"));
        if status == "active" { Ok(()) } else { Err(status) }
    });
}

fn action(cloud: &Cloud, container: &str) -> String {
    cloud.sql(&format!(
        "SELECT IFNULL(message, 'Success'), finish_time IS NOT NULL FROM zun.container_actions
         WHERE container_uuid = '{container}' AND action = 'commit' ORDER BY id DESC LIMIT 1"
    ))
}

/// Waits until a commit has failed, and sees to it that its container goes on and its image is gone.
fn wait_until_taken_back(cloud: &Cloud, container: &str, id: &str) {
    eventually(120, "the action ends in an error", || {
        let action = action(cloud, container);
        if action == "Error\t1" { Ok(()) } else { Err(action) }
    });
    let left = cloud.sql(&format!("SELECT status FROM glance.images WHERE id = '{id}' AND deleted = 0"));
    assert_eq!(left, "", "nothing is queued");
    assert_eq!(cloud.show(container)["status"], "Running");
}

/// Docker loads an archive of so many layers, and a container that it makes of it has what was changed.
fn assert_docker_has_its_files(archive: &Path, layers: usize) {
    let docker = Docker::start();
    let said = docker.run(&["load", "--input", archive.to_str().unwrap()]);
    let loaded = said.split_whitespace().last().unwrap();
    let number = docker.run(&["image", "inspect", "--format", "{{len .RootFS.Layers}}", loaded]);
    assert_eq!(number.trim(), layers.to_string(), "{said}");
    let container = docker.run(&["create", "--network", "none", loaded]);
    let files = archive.with_extension("tar");
    docker.run(&["export", "--output", files.to_str().unwrap(), container.trim()]);
    let tar = |words: &[&str]| {
        Said::from(Command::new("tar").args(words).arg("-f").arg(&files).output().unwrap()).ok()
    };
    let names = tar(&["-t"]);
    assert!(names.lines().any(|name| name == "bin/busybox"), "{names}");
    assert!(names.lines().all(|name| name != "bin/vi"), "{names}");
    let of_www: Vec<_> = names.lines().filter(|name| name.starts_with("var/www/")).collect();
    assert_eq!(of_www, ["var/www/", "var/www/x"]);
    assert_eq!(tar(&["-x", "-O", "new", "var/www/x"]), "changed\nin\n");
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_becomes_an_image_with_one_layer_more() {
    in_cloud(|cloud| {
        let name = format!("committed-{}", std::process::id());
        let uuid = cloud.run_busybox(CHANGE);
        eventually(30, "it has changed its files", || {
            let said = cloud.openstack(&["appcontainer", "exec", &uuid, "cat", "/var/www/x"]);
            if said.out.contains("in") { Ok(()) } else { Err(said.out) }
        });
        let id = commit(cloud, &uuid, &format!("{name}:v1"));
        wait_until_active(cloud, &id);
        let known = image(cloud, &id);
        assert_eq!((&known["name"], &known["container_format"]), (&name.clone().into(), &"docker".into()));
        assert_eq!((&known["disk_format"], &known["tags"][0]), (&"qcow2".into(), &"v1".into()));
        assert_eq!(cloud.show(&uuid)["status"], "Running", "it goes on");
        eventually(30, "the action is finished", || {
            let action = action(cloud, &uuid);
            if action == "Success\t1" { Ok(()) } else { Err(action) }
        });

        // Others read it: it has its parent's layers and one more.
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("archive");
        cloud.openstack(&["image", "save", "--file", archive.to_str().unwrap(), &id]).ok();
        let seen = cloud_tests::registry::inspect(&format!("docker-archive:{}", archive.display()));
        let parent = cloud_tests::registry::inspect("docker://127.0.0.1:5001/busybox:latest");
        let layers = |image: &Value| image["rootfs"]["diff_ids"].as_array().unwrap().clone();
        let (own, of_parent) = (layers(&seen), layers(&parent));
        assert_eq!((&own[..of_parent.len()], own.len()), (&of_parent[..], of_parent.len() + 1));
        assert_docker_has_its_files(&archive, own.len());

        let look = "cat /new /var/www/x; ls /bin/vi; stat -c %U /bin/busybox";
        let words = [&BUSYBOX[..6], &["--image-driver", "glance", &format!("{name}:v1"), "sh", "-c", look]];
        let again = cloud.make("run", &words.concat());
        cloud.wait_for_status(&again, "Stopped");
        let log = cloud.openstack(&["appcontainer", "logs", &again]).ok();
        assert!(log.contains("changed\nin\n") && log.contains("/bin/vi: No such file"), "{log}");
        cloud.delete(&again);

        // A paused one, and one that does not run, have the same files.
        cloud.openstack(&["appcontainer", "pause", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Paused");
        let paused = commit(cloud, &uuid, &name);
        wait_until_active(cloud, &paused);
        assert_eq!(cloud.show(&uuid)["status"], "Paused");
        cloud.openstack(&["appcontainer", "unpause", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        cloud.openstack(&["appcontainer", "stop", "--timeout", "1", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Stopped");
        let stopped = commit(cloud, &uuid, &name);
        wait_until_active(cloud, &stopped);
        for id in [&id, &paused, &stopped] {
            cloud.openstack(&["image", "delete", id]).ok();
        }
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_commit_that_fails_leaves_no_image() {
    in_cloud(|cloud| {
        let registry = cloud_tests::registry::Registry::start(crate::images::PORT, None);
        registry.push(&cloud_tests::registry::Layout::busybox(), "gone:1", &[]);
        let reference = format!("{}/gone:1", registry.address());
        let uuid = cloud.make("run", &[&BUSYBOX[..], &[&reference, "sleep", "100000"]].concat());
        cloud.wait_for_status(&uuid, "Running");
        drop(registry);
        let id = commit(cloud, &uuid, "never:1");
        wait_until_taken_back(cloud, &uuid, &id);
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_commit_that_was_interrupted_is_taken_back() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("head -c 20000000 /dev/urandom >/large; exec sleep 100000");
        let id = commit(cloud, &uuid, "interrupted:1");
        Killed::now(cloud).revive();
        wait_until_taken_back(cloud, &uuid, &id);
        cloud.delete(&uuid);
    });
}
