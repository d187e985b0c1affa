//! Users who are no administrators.

use cloud_tests::cloud::{BUSYBOX, Cloud, Said, password};
use serde_json::Value;

/// A user with a project of the same name.
pub struct Tenant<'a>(&'a Cloud, &'static str);

impl<'a> Tenant<'a> {
    pub fn new(cloud: &'a Cloud, name: &'static str) -> Self {
        cloud.openstack(&["project", "create", name]).ok();
        cloud.openstack(&["user", "create", "--project", name, "--password", &password(), name]).ok();
        cloud.openstack(&["role", "add", "--project", name, "--user", name, "member"]).ok();
        Self(cloud, name)
    }

    pub fn openstack(&self, arguments: &[&str]) -> Said {
        self.0.openstack_of(self.1, arguments)
    }

    pub fn run(&self, net: &[&str]) -> Said {
        let words = [&["appcontainer", "run", "-f", "json"], &BUSYBOX[..4], net];
        self.openstack(&[&words.concat()[..], &["busybox", "sleep", "100000"]].concat())
    }

    /// Runs a container that comes to be on a network, and gives its UUID.
    pub fn runs(&self, net: &[&str]) -> String {
        let made: Value = serde_json::from_str(&self.run(net).ok()).unwrap();
        let uuid = made["uuid"].as_str().unwrap().to_owned();
        self.0.wait_for_status(&uuid, "Running");
        uuid
    }
}

impl Drop for Tenant<'_> {
    fn drop(&mut self) {
        for kind in ["user", "project"] {
            self.0.openstack(&[kind, "delete", self.1]);
        }
    }
}
