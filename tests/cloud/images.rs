//! Containers from images of other shapes than devstack's.

use cloud_tests::cloud::{Cloud, in_cloud};
use cloud_tests::registry::{Layout, Registry, User};

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
