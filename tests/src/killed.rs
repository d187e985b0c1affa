//! The service of a compute host, killed and started again.

use crate::cloud::{Cloud, service_log};
use crate::eventually;

/// The service, killed. It is started again when this goes.
pub struct Killed<'a> {
    cloud: &'a Cloud,
    served: usize,
}

impl<'a> Killed<'a> {
    /// Kills it.
    pub fn now(cloud: &'a Cloud) -> Self {
        let killed = Self { cloud, served: times_served(cloud) };
        cloud.shell("kill -9 $(pgrep -x zun-kata-comput)");
        eventually(20, "the service is dead", || {
            let alive = cloud.on_host(&["pgrep", "-x", "zun-kata-comput"]);
            if alive.status == 0 { Err(alive.out) } else { Ok(()) }
        });
        killed
    }

    /// Starts the service.
    pub fn start(&self) {
        self.cloud.on_host(&["devstack/host", "start"]).ok();
    }

    /// Starts the service of an earlier release, which is in this folder.
    pub fn start_earlier(&self, folder: &str) {
        self.cloud.on_host(&["devstack/host", "start", folder]).ok();
    }

    /// Starts the service and waits until it serves.
    pub fn revive(self) {
        self.start();
        self.wait_until_it_serves();
    }

    /// Waits until it serves, once it has been started.
    pub fn wait_until_it_serves(&self) {
        eventually(120, "the service serves again", || {
            if times_served(self.cloud) > self.served { Ok(()) } else { Err(service_log(self.cloud)) }
        });
    }
}

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        self.cloud.on_host(&["devstack/host", "start"]);
    }
}

fn times_served(cloud: &Cloud) -> usize {
    service_log(cloud).matches("serving RPC").count()
}
