//! What cannot be done ends in `Error` with a reason that names thing and cause, and leaves nothing behind.

use cloud_tests::ballast::Ballast;
use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud, service_log};
use cloud_tests::eventually;
use cloud_tests::registry::{Layout, Registry, corrupt, noise};
use cloud_tests::swelling::{layer, names};

use crate::images::{PORT, USER, UsersRegistry};

/// Runs what cannot run, checks the reason for each of `words`, and deletes the container.
fn refused(cloud: &Cloud, arguments: &[&str], words: &[&str]) {
    let uuid = cloud.make("run", arguments);
    let reason = cloud.wait_for_error(&uuid);
    for word in words {
        assert!(reason.contains(word), "{reason:?} does not say {word:?}");
    }
    let held = format!(
        "SELECT id FROM neutron.ports WHERE device_id = '{uuid}' UNION SELECT consumer_id FROM placement.allocations WHERE consumer_id = '{uuid}'"
    );
    assert_eq!(cloud.sql(&held), "", "a failed container holds nothing");
    cloud.delete(&uuid);
}

/// MD5 of 15 million lines of `yes`.
const YES: &str = "acb6358ad0ab95df130a23923c40bc7b";
const SMALL: [&str; 6] = ["--cpu", "1", "--memory", "128", "--net", "network=net"];

fn image(name: &str) -> Vec<&str> {
    [&SMALL[..], &[name]].concat()
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_unknown_image_tag_or_registry() {
    in_cloud(|cloud| {
        refused(
            cloud,
            &image("127.0.0.1:5001/no-such-image"),
            &["127.0.0.1:5001/no-such-image", "could not be found"],
        );
        refused(cloud, &image("busybox:no-such-tag"), &["busybox:no-such-tag", "could not be found"]);
        refused(cloud, &image("127.0.0.1:5999/busybox"), &["127.0.0.1:5999", "cannot be reached"]);
        let never = [&SMALL[..], &["--image-pull-policy", "never", "busybox:not-here"]].concat();
        refused(cloud, &never, &["busybox:not-here", "pull policy is never"]);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_wrong_password() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, Some(&USER));
        let creds = format!("{}:{}", USER.name, USER.password);
        registry.push(&Layout::busybox(), "private:1", &["--dest-creds", &creds]);
        let known = UsersRegistry::create(cloud, "guessed");
        refused(
            cloud,
            &[&SMALL[..], &["--registry", &known.name, "private:1"]].concat(),
            &["127.0.0.1:5002", "credentials"],
        );
        assert!(!service_log(cloud).contains("guessed"), "the log keeps the secret");
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_digest_that_does_not_match() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, None);
        registry.push(&Layout::busybox().with_file("/x", &[7; 100_000]), "broken:1", &[]);
        let blobs = registry.blobs();
        let largest = blobs.iter().max_by_key(|blob| blob.metadata().unwrap().len()).unwrap();
        corrupt(largest);
        refused(cloud, &image("127.0.0.1:5002/broken:1"), &["127.0.0.1:5002/broken:1", "digest", "sha256:"]);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_command_that_is_not_in_the_image() {
    in_cloud(|cloud| {
        let arguments = [&BUSYBOX[..], &["busybox", "no-such-program", "argument"]].concat();
        let uuid = cloud.make("run", &arguments);
        let reason = cloud.wait_for_error(&uuid);
        assert!(reason.contains("no-such-program"), "{reason}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn memory_below_what_a_guest_needs() {
    in_cloud(|cloud| {
        let arguments = ["--cpu", "1", "--memory", "8", "--net", "network=net", "busybox", "true"];
        refused(cloud, &arguments, &["8 MiB", "memory"]);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_network_that_cannot_be_bound() {
    in_cloud(|cloud| {
        let name = "nowhere";
        // What an interrupted test left.
        cloud.openstack(&["network", "delete", name]);
        let kind = ["--provider-network-type", "flat", "--provider-physical-network", name];
        cloud.openstack(&[&["network", "create"], &kind[..], &[name]].concat()).ok();
        cloud
            .openstack(&["subnet", "create", "--network", name, "--subnet-range", "10.78.0.0/24", name])
            .ok();
        let id = cloud.sql("SELECT id FROM neutron.networks WHERE name = 'nowhere'");
        let arguments = ["--cpu", "1", "--memory", "128", "--net", "network=nowhere", "busybox", "true"];
        refused(cloud, &arguments, &[&id, "bound"]);
        cloud.openstack(&["network", "delete", name]).ok();
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_disk_that_is_full() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, None);
        registry.push(&Layout::busybox().with_file("/noise", &noise(4_000_000)), "bulky:1", &[]);
        let talks = cloud.run_busybox("while :; do yes word | head -c 100000; sleep 0.1; done");
        let stopped = cloud.run_busybox("sleep 100000");
        cloud.act(&["stop", "--timeout", "1"], &stopped, "Stopped");
        let ballast = Ballast::load(cloud);
        let uuid = cloud.make("run", &image("127.0.0.1:5002/bulky:1"));
        let reason = cloud.wait_for_error(&uuid);
        let is_answered = cloud.openstack(&["appcontainer", "exec", &talks, "true"]).status == 0;
        cloud.openstack(&["appcontainer", "start", &stopped]).ok();
        let started = eventually(120, "a start comes to an end", || cloud.settled(&stopped));
        drop(ballast);
        assert!(reason.contains("No space left on device") && reason.contains("bulky"), "{reason}");
        assert!(is_answered, "what a container says is lost, and no more: {}", cloud.show(&talks));
        // Whichever way that start ended, the container is not lost.
        if started != "Running" {
            cloud.act(&["start"], &stopped, "Running");
        }
        cloud.exec(&stopped, "true");
        [uuid, talks, stopped].iter().for_each(|uuid| cloud.delete(uuid));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_guest_that_writes_waits_for_room() {
    in_cloud(|cloud| {
        let writes = cloud.run_busybox("sleep 100000");
        let ballast = Ballast::load(cloud);
        let written = "(yes | head -c 30000000 >/file; sync; echo written >/dev/shm/said) >/dev/null 2>&1 &";
        cloud.exec(&writes, written);
        eventually(60, "its disk has found no room", || {
            let log = format!("/var/lib/zun-kata/sandboxes/{writes}/shim.log");
            let said = cloud.shell(&format!("cat {log}"));
            if said.contains("no room for a disk's writes") { Ok(()) } else { Err(said) }
        });
        let said = || cloud.exec(&writes, "cat /dev/shm/said 2>/dev/null || true");
        assert_eq!(said(), "", "the write ended while the disk was full");
        drop(ballast);
        eventually(60, "what was written is on the disk", || match said() {
            now if now == "written" => Ok(()),
            now => Err(now),
        });
        assert_eq!(cloud.exec(&writes, "wc -c </file; md5sum </file"), format!("30000000\n{YES}  -"));
        cloud.delete(&writes);
        // Nobody waits for the disk of a container that is to go.
        let goes = cloud.run_busybox("sleep 100000");
        let _ballast = Ballast::load(cloud);
        cloud.exec(&goes, written);
        cloud.delete(&goes);
    });
}

/// Bytes of memory by which the service may grow while an image is read that would take gigabytes: others read it.
const GROWTH_MAX: u64 = 64 << 20;

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_small_image_does_not_become_large_in_the_service() {
    in_cloud(|cloud| {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::start(PORT, None);
        registry.push(&Layout::of_layers(&[layer(folder.path(), names)]), "swelling:1", &[]);
        let other = cloud.run_busybox("sleep 100000");
        let process = "/proc/$(pgrep -x zun-kata-comput)";
        // The peak is counted from now on (proc(5), clear_refs).
        cloud.shell(&format!("echo 5 >{process}/clear_refs"));
        let peak = || -> u64 {
            let line = cloud.shell(&format!("grep VmHWM: {process}/status"));
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        };
        let before = peak();
        let uuid = cloud.make("run", &image("127.0.0.1:5002/swelling:1"));
        let reason = cloud.wait_for_error(&uuid);
        assert!(reason.contains("cannot be run"), "it was read, and has nothing to run: {reason}");
        let after = peak();
        println!("the service took {} MiB at most, {} MiB before", after >> 20, before >> 20);
        assert!(after < before + GROWTH_MAX, "{before} bytes became {after}");
        cloud.exec(&other, "true");
        [uuid, other].iter().for_each(|uuid| cloud.delete(uuid));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_message_that_is_malformed_or_unknown() {
    in_cloud(|cloud| {
        let host = cloud.sql("SELECT host FROM zun.zun_service");
        let publish = format!(
            "import sys, kombu\n\
             with kombu.Connection('amqp://guest:guest@127.0.0.1:5672//') as c:\n    \
             p = c.Producer()\n    \
             for body in ('nonsense', '{{\"oslo.version\": \"2.0\", \"oslo.message\": \"{{\\\\\"args\\\\\": {{}}, \\\\\"_unique_id\\\\\": \\\\\"id-of-it\\\\\"}}\"}}'):\n        \
             p.publish(body, routing_key='zun-compute.{host}', content_type='application/json', content_encoding='utf-8')\n"
        );
        let sent = std::process::Command::new(cloud_tests::python()).args(["-c", &publish]).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        eventually(30, "it is logged with its identifier", || {
            let log = service_log(cloud);
            if log.contains("id-of-it") && log.contains("a message is dropped") {
                Ok(())
            } else {
                Err(String::new())
            }
        });
        let uuid = cloud.run_busybox("sleep 100000");
        cloud.delete(&uuid);
    });
}
