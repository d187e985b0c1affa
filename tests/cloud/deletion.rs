//! Containers that are deleted: at their end, slowly, and while Neutron does not answer.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;

const NEUTRON: u16 = 9696;
/// Seconds after which what could not be given back has been tried again.
const LATER: u64 = 240;

/// A lab's line to Neutron, out of order. It is whole again when this goes.
struct Line<'a>(&'a Cloud);

impl<'a> Line<'a> {
    /// Connections are refused.
    fn cut(cloud: &'a Cloud) -> Self {
        let line = Self(cloud);
        line.end();
        line
    }

    /// Connections are taken, and nobody ever answers.
    fn silence(cloud: &'a Cloud) -> Self {
        let line = Self::cut(cloud);
        line.listen("-u", "OPEN:/dev/null");
        line
    }

    /// Ends who listens, and the connections that were made.
    fn end(&self) {
        // Brackets keep the pattern from matching the command that it stands in.
        let pattern = format!("[T]CP-LISTEN:{NEUTRON},");
        let script =
            format!("pkill -f '{pattern}'; while pgrep -f '{pattern}' >/dev/null; do sleep 0.1; done");
        self.0.on_host(&["bash", "-c", &script]);
    }

    fn listen(&self, option: &str, to: &str) {
        let socat = format!("setsid socat {option} TCP-LISTEN:{NEUTRON},bind=127.0.0.1,fork,reuseaddr {to}");
        self.0.on_host(&["bash", "-c", &format!("{socat} </dev/null >/dev/null 2>&1 &")]);
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.end();
        self.listen("", &format!("TCP:10.0.2.2:{NEUTRON}"));
    }
}

/// Whether the line to Neutron can be cut. Who reaches it on this machine's loopback has none.
fn has_line(cloud: &Cloud) -> bool {
    let is_in_lab = cloud.is_in_lab();
    if !is_in_lab {
        println!("the compute host is no lab VM, whose line to Neutron could be cut: not tried");
    }
    is_in_lab
}

fn status(cloud: &Cloud, uuid: &str) -> String {
    cloud.sql(&format!("SELECT status FROM zun.container WHERE uuid = '{uuid}'"))
}

fn comes_to_have_no_port(cloud: &Cloud, uuid: &str) {
    eventually(LATER, &format!("the port of {uuid} is given back"), || {
        let ports = cloud.ports_of(uuid);
        if ports.is_empty() { Ok(()) } else { Err(format!("{ports:?}")) }
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_is_removed_at_its_end_goes_when_it_is_stopped_or_killed() {
    in_cloud(|cloud| {
        let ends_when_asked = "trap 'exit 0' TERM; while :; do sleep 0.2; done";
        let words = ["--auto-remove", "busybox", "sh", "-c", ends_when_asked];
        let run = |_: &str| cloud.make("run", &[&BUSYBOX[..], &words].concat());
        let verbs = ["stop", "kill"];
        let uuids = verbs.map(run);
        uuids.iter().for_each(|uuid| cloud.wait_for_status(uuid, "Running"));
        for (verb, uuid) in verbs.iter().zip(&uuids) {
            cloud.openstack(&["appcontainer", verb, uuid]).ok();
        }
        uuids.iter().for_each(|uuid| cloud.wait_until_gone(uuid));
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_is_deleted_by_force_without_neutron_and_its_port_goes_later() {
    in_cloud(|cloud| {
        if !has_line(cloud) {
            return;
        }
        let uuid = cloud.run_busybox("sleep 100000");
        let ports = cloud.ports_of(&uuid);
        assert_eq!(ports.len(), 1);
        let line = Line::cut(cloud);
        cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
        cloud.wait_until_gone_within(180, &uuid);
        assert!(!cloud.shell("ls /var/lib/zun-kata/sandboxes").contains(&uuid), "its sandbox is gone, too");
        assert_eq!(cloud.ports_of(&uuid), ports, "Neutron has not been told");
        drop(line);
        comes_to_have_no_port(cloud, &uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_that_is_being_deleted_says_so_and_takes_nothing_else() {
    in_cloud(|cloud| {
        if !has_line(cloud) {
            return;
        }
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "true"]].concat());
        cloud.wait_for_status(&uuid, "Created");
        let line = Line::silence(cloud);
        cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
        eventually(30, "its row says that it is being deleted", || match status(cloud, &uuid) {
            now if now == "Deleting" => Ok(()),
            now => Err(now),
        });
        for verb in ["start", "delete"] {
            let refused = cloud.openstack(&["appcontainer", verb, &uuid]);
            assert!(refused.out.contains("HTTP 409"), "{verb}: {refused:?}");
        }
        assert_eq!(status(cloud, &uuid), "Deleting");
        drop(line);
        cloud.wait_until_gone_within(180, &uuid);
        comes_to_have_no_port(cloud, &uuid);
    });
}
