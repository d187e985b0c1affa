//! Containers on two compute hosts, through a tunnel between them.

use std::process::Command;

use cloud_tests::cloud::{Cloud, Said, in_cloud};
use cloud_tests::top;

use crate::traffic::{addresses, comes_to_reach, exec, run};

/// A second compute host, for as long as this lives.
struct SecondHost;

impl SecondHost {
    fn start() -> Self {
        devstack(&["up"]).ok();
        Self
    }
}

impl Drop for SecondHost {
    fn drop(&mut self) {
        let ended = devstack(&["down"]);
        assert!(ended.status == 0 || std::thread::panicking(), "{ended:?}");
    }
}

fn devstack(arguments: &[&str]) -> Said {
    Command::new(top().join("devstack/second-host")).args(arguments).output().unwrap().into()
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn containers_of_two_hosts_reach_each_other() {
    in_cloud(|cloud| {
        if cloud.shell("hostname") != "compute1\n" {
            return println!(
                "the compute host is no lab VM, to which a second could have a cable: not tried"
            );
        }
        let _second = SecondHost::start();
        let network = cloud.network("10.84.0.0/24");
        let uuids =
            ["compute1", "compute2"].map(|host| run(cloud, &network, &["--host", host], "sleep 100000"));
        for (uuid, host) in uuids.iter().zip(["compute1", "compute2"]) {
            assert_eq!(cloud.show(uuid)["host"], host);
        }
        let [one, other] = uuids.each_ref().map(|uuid| addresses(cloud, uuid)[0].clone());
        comes_to_reach(cloud, &uuids[0], &other);
        comes_to_reach(cloud, &uuids[1], &one);
        let (status, said) = exec(cloud, &uuids[1], &format!("ping -c 2 -W 3 -s 1422 {one}"));
        assert_eq!(status, 0, "a packet of the network's MTU passes: {said}");
        uuids.iter().for_each(|uuid| cloud.delete(uuid));
        let left = "ls /sys/class/net | grep ^tap; ls /var/lib/zun-kata/sandboxes; ovs-vsctl list-ports br-int | grep tap; true";
        assert_eq!(devstack(&["run", "sh", "-c", left]).ok(), "");
        assert_no_tap(cloud);
    });
}

fn assert_no_tap(cloud: &Cloud) {
    let known = cloud.sql("SELECT LEFT(id, 11) FROM neutron.ports");
    for tap in cloud.shell("ls /sys/class/net").lines().filter_map(|name| name.strip_prefix("tap")) {
        assert!(known.contains(tap), "tap{tap} is no port's");
    }
}
