//! Users who are no administrators.

use serde_json::Value;

use crate::cloud::{BUSYBOX, Cloud, Said, password};

/// A user with a project of the same name.
pub struct Tenant<'a> {
    cloud: &'a Cloud,
    name: String,
}

impl<'a> Tenant<'a> {
    /// Makes the project and the user. What a test left that was ended has another name.
    pub fn new(cloud: &'a Cloud, name: &str) -> Self {
        let own = format!("{name}-{}", std::process::id());
        let name = own.as_str();
        cloud.openstack(&["project", "create", name]).ok();
        cloud.openstack(&["user", "create", "--project", name, "--password", &password(), name]).ok();
        cloud.openstack(&["role", "add", "--project", name, "--user", name, "member"]).ok();
        Self { cloud, name: own }
    }

    /// What the user and the project are called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `openstack` says to the user.
    pub fn openstack(&self, arguments: &[&str]) -> Said {
        self.cloud.openstack_of(&self.name, arguments)
    }

    /// What comes of `appcontainer run` with these arguments.
    pub fn run(&self, net: &[&str]) -> Said {
        self.run_command(net, "sleep 100000")
    }

    fn run_command(&self, net: &[&str], command: &str) -> Said {
        let words = [&["appcontainer", "run", "-f", "json"], &BUSYBOX[..4], net].concat();
        self.openstack(&[&words[..], &["busybox", "sh", "-c", command]].concat())
    }

    /// Runs a container that comes to be on a network, and gives its UUID.
    pub fn runs(&self, net: &[&str]) -> String {
        self.runs_command(net, "sleep 100000")
    }

    /// The same with a shell's command.
    pub fn runs_command(&self, net: &[&str], command: &str) -> String {
        let made: Value = serde_json::from_str(&self.run_command(net, command).ok()).unwrap();
        let uuid = made["uuid"].as_str().unwrap().to_owned();
        self.cloud.wait_for_status(&uuid, "Running");
        uuid
    }
}

impl Drop for Tenant<'_> {
    fn drop(&mut self) {
        for kind in ["user", "project"] {
            self.cloud.openstack(&[kind, "delete", &self.name]);
        }
    }
}
