//! Containers from images of other shapes than devstack's.

use cloud_tests::cloud::{Cloud, in_cloud, service_log};
use cloud_tests::eventually;
use cloud_tests::registry::{Layout, Registry, User};
use serde_json::Value;

/// The port that devstack lets a compute host reach for tests.
pub const PORT: u16 = 5002;
pub const USER: User = User { name: "ada", password: "love-lace" };

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn zstd_layers_whiteouts_users_and_entry_points() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, None);
        let image = Layout::busybox()
            .with_file("/from-image", b"there")
            .with_file("/deleted", b"gone")
            .without("/deleted")
            .configured(&["--config.user", "www:log", "--config.entrypoint", "/bin/sh"])
            .configured(&["--config.cmd", "-c", "--config.cmd", "id; ls /; cat /from-image; pwd"])
            .configured(&["--config.workingdir", "/var/www"]);
        registry.push(&image, "odd:1", &["--dest-compress-format", "zstd"]);
        let uuid = cloud.make(
            "run",
            &[
                "--cpu",
                "1",
                "--memory",
                "128",
                "--net",
                "network=net",
                &format!("{}/odd:1", registry.address()),
            ],
        );
        cloud.wait_for_status(&uuid, "Stopped");
        let log = cloud.openstack(&["appcontainer", "logs", &uuid]).ok();
        assert!(log.contains("uid=33(www) gid=4(log)"), "{log}");
        assert!(log.contains("there") && log.contains("/var/www") && !log.contains("deleted"), "{log}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_registry_of_the_users_with_the_right_password() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, Some(&USER));
        let image = Layout::busybox().with_file("/secret", b"of ada");
        registry.push(&image, "private:1", &["--dest-creds", &format!("{}:{}", USER.name, USER.password)]);
        let known = UsersRegistry::create(cloud, USER.password);
        let uuid = cloud.make(
            "run",
            &["--cpu", "1", "--memory", "128", "--registry", &known.name, "private:1", "cat", "/secret"],
        );
        cloud.wait_for_status(&uuid, "Stopped");
        assert_eq!(cloud.openstack(&["appcontainer", "logs", &uuid]).ok().trim(), "of ada");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn an_image_that_was_pulled_to_the_host_needs_its_registry_no_more() {
    in_cloud(|cloud| {
        let registry = Registry::start(PORT, None);
        let name = format!("{}/pulled:1", registry.address());
        registry.push(&Layout::busybox().with_file("/pulled", b"before"), "pulled:1", &[]);
        let host = cloud.sql("SELECT host FROM zun.zun_service");
        let pulled = cloud.openstack(&["appcontainer", "image", "pull", &name, &host, "-f", "json"]).ok();
        let uuid = serde_json::from_str::<Value>(&pulled).unwrap()["uuid"].as_str().unwrap().to_owned();
        eventually(60, "its row has what the pull found", || {
            let row = cloud.sql(&format!("SELECT image_id, size, tag FROM zun.image WHERE uuid = '{uuid}'"));
            let whole = row.starts_with("sha256:") && row.ends_with("\t1") && !row.contains("NULL");
            if whole { Ok(()) } else { Err(row) }
        });
        drop(registry);
        let small = ["--cpu", "1", "--memory", "128", "--net", "network=net", "--image-pull-policy", "never"];
        let uuid_of_container = cloud.make("run", &[&small[..], &[&name, "cat", "/pulled"]].concat());
        cloud.wait_for_status(&uuid_of_container, "Stopped");
        let log = cloud.openstack(&["appcontainer", "logs", &uuid_of_container]).ok();
        assert_eq!(log.trim(), "before");
        // Deleted, it stays for the container that was made of it, and for no other.
        cloud.openstack(&["appcontainer", "image", "delete", &uuid]).ok();
        eventually(60, "its row is gone", || {
            let row = cloud.sql(&format!("SELECT uuid FROM zun.image WHERE uuid = '{uuid}'"));
            if row.is_empty() { Ok(()) } else { Err(row) }
        });
        cloud.openstack(&["appcontainer", "start", &uuid_of_container]).ok();
        eventually(120, "it has run again", || {
            let log = cloud.openstack(&["appcontainer", "logs", &uuid_of_container]).ok();
            if log.matches("before").count() == 2 { Ok(()) } else { Err(log) }
        });
        cloud.wait_for_status(&uuid_of_container, "Stopped");
        cloud.delete(&uuid_of_container);
        let other = cloud.make("run", &[&small[..], &[&name, "cat", "/pulled"]].concat());
        let reason = cloud.wait_for_error(&other);
        assert!(reason.contains(&name), "{reason}");
        cloud.delete(&other);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_registry_without_a_search_is_named() {
    in_cloud(|cloud| {
        let said = cloud.openstack(&["appcontainer", "image", "search", "busybox"]);
        assert_ne!(said.status, 0, "{said:?}");
        // The API hides the text of this exception, which makes it skip the validation of images.
        let log = service_log(cloud);
        let line = log.lines().rfind(|line| line.contains("image_search")).unwrap_or_default();
        assert!(line.contains("OperationNotSupported") && line.contains("127.0.0.1:5001"), "{line}");
    });
}

/// The registry that tests start, as a user told Zun about it.
pub struct UsersRegistry<'a> {
    cloud: &'a Cloud,
    pub name: String,
}

impl<'a> UsersRegistry<'a> {
    pub fn create(cloud: &'a Cloud, password: &str) -> Self {
        let registry = Self { cloud, name: format!("of-{}-{password}", std::process::id()) };
        let account = ["--username", USER.name, "--password", password];
        let place = ["--name", &registry.name, "--domain", &format!("127.0.0.1:{PORT}")];
        cloud.openstack(&[&["appcontainer", "registry", "create"], &place[..], &account].concat()).ok();
        registry
    }
}

impl Drop for UsersRegistry<'_> {
    fn drop(&mut self) {
        self.cloud.openstack(&["appcontainer", "registry", "delete", &self.name]);
    }
}
