//! A lab's way to one of the control plane's ports, cut and joined again.

use crate::cloud::Cloud;

/// Where a lab has this machine.
const MACHINE: &str = "10.0.2.2";

/// A way to a port that is out of order. It is whole again when this goes.
pub struct Relay<'a> {
    cloud: &'a Cloud,
    port: u16,
}

impl<'a> Relay<'a> {
    /// Connections are refused from now on. Those that were made end.
    pub fn cut(cloud: &'a Cloud, port: u16) -> Self {
        let relay = Self { cloud, port };
        relay.end();
        relay
    }

    /// Connections are taken, and nobody ever answers.
    pub fn silence(cloud: &'a Cloud, port: u16) -> Self {
        let relay = Self::cut(cloud, port);
        relay.listen("-u", "OPEN:/dev/null");
        relay
    }

    /// Joins the way again.
    pub fn join(self) {}

    fn end(&self) {
        // Brackets keep the pattern from matching the command that it stands in.
        let pattern = format!("[T]CP-LISTEN:{},", self.port);
        let script =
            format!("pkill -f '{pattern}'; while pgrep -f '{pattern}' >/dev/null; do sleep 0.1; done");
        self.cloud.on_host(&["bash", "-c", &script]);
    }

    fn listen(&self, option: &str, to: &str) {
        let port = self.port;
        let socat = format!("setsid socat {option} TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr {to}");
        self.cloud.on_host(&["bash", "-c", &format!("{socat} </dev/null >/dev/null 2>&1 &")]);
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        self.end();
        self.listen("", &format!("TCP:{MACHINE}:{}", self.port));
    }
}

/// Whether there are ways that can be cut. Who reaches the control plane on this machine's loopback has none.
pub fn exist(cloud: &Cloud) -> bool {
    let is_in_lab = cloud.is_in_lab();
    if !is_in_lab {
        println!("the compute host is no lab VM, whose way to the control plane could be cut: not tried");
    }
    is_in_lab
}
