//! What really passes between containers, and what does not, through the real Neutron and its Open vSwitch agent.

use cloud_tests::cloud::{Cloud, Network, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;
use serde_json::Value;

const SMALL: [&str; 6] = ["--cpu", "1", "--memory", "128", "--image-pull-policy", "ifnotpresent"];
/// Seconds between the packets of a steady ping.
const PING_INTERVAL: f64 = 0.2;

/// A network of both families, with a route of its own.
fn dual_stack(cloud: &Cloud) -> Network<'_> {
    let network = cloud.network("10.80.0.0/24");
    let six = ["--ip-version", "6", "--subnet-range", "fd00:80::/64", "--dns-nameserver", "fd00:80::53"];
    let name = network.name.as_str();
    cloud.openstack(&[&["subnet", "create", "--network", name], &six[..], &["six"]].concat()).ok();
    let routes =
        ["--host-route", "destination=192.0.2.0/24,gateway=10.80.0.9", "--dns-nameserver", "10.80.0.53"];
    cloud.openstack(&[&["subnet", "set"], &routes[..], &[name]].concat()).ok();
    network
}

pub fn run(cloud: &Cloud, network: &Network<'_>, more: &[&str], command: &str) -> String {
    let net = format!("network={}", network.name);
    let words = [&SMALL[..], &["--net", &net], more, &["busybox", "sh", "-c", command]].concat();
    let uuid = cloud.make("run", &words);
    cloud.wait_for_status(&uuid, "Running");
    uuid
}

/// The addresses of a container: IPv4, then IPv6.
pub fn addresses(cloud: &Cloud, uuid: &str) -> [String; 2] {
    let shown: Value = cloud.api(&format!("containers/{uuid}"));
    let all: Vec<&Value> =
        shown["addresses"].as_object().unwrap().values().flat_map(|one| one.as_array().unwrap()).collect();
    [4, 6].map(|version| {
        let of_family = all.iter().find(|one| one["version"] == version);
        of_family.map(|one| one["addr"].as_str().unwrap().to_owned()).unwrap_or_default()
    })
}

pub fn exec(cloud: &Cloud, uuid: &str, script: &str) -> (i32, String) {
    let said = cloud.openstack(&["appcontainer", "exec", uuid, "sh", "-c", script]);
    (said.status, said.out)
}

fn reaches(cloud: &Cloud, uuid: &str, address: &str) -> bool {
    exec(cloud, uuid, &format!("ping -c 2 -W 3 {address}")).0 == 0
}

pub fn comes_to_reach(cloud: &Cloud, uuid: &str, address: &str) {
    eventually(120, &format!("{address} is reached"), || {
        if reaches(cloud, uuid, address) { Ok(()) } else { Err("not yet".into()) }
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn packets_pass_as_rules_say_and_none_with_a_forged_source() {
    in_cloud(|cloud| {
        let network = dual_stack(cloud);
        let closed =
            cloud.openstack(&["security", "group", "create", "closed", "-f", "value", "-c", "id"]).ok();
        let closed = closed.trim();
        let first = run(cloud, &network, &["--privileged"], "sleep 100000");
        let second = run(cloud, &network, &["--security-group", closed], "sleep 100000");
        let [mine, _] = addresses(cloud, &first);
        let [four, six] = addresses(cloud, &second);

        let (_, known) = exec(cloud, &first, "ip route; ip -6 route; cat /etc/resolv.conf; cat /etc/hosts");
        for part in [
            "default via 10.80.0.1",
            "192.0.2.0/24 via 10.80.0.9",
            "default via fd00:80:: dev eth0",
            "nameserver 10.80.0.53",
            "nameserver fd00:80::53",
            "search cloud.example",
            mine.as_str(),
        ] {
            assert!(known.contains(part), "{part} is not in {known}");
        }

        assert!(!reaches(cloud, &first, &four), "no rule of its group lets anything in");
        let rule = |more: &[&str]| {
            cloud.openstack(&[&["security", "group", "rule", "create"], more, &[closed]].concat()).ok()
        };
        rule(&["--protocol", "icmp"]);
        rule(&["--ethertype", "IPv6", "--protocol", "ipv6-icmp"]);
        comes_to_reach(cloud, &first, &four);
        comes_to_reach(cloud, &first, &six);

        // That a source can be forged is seen apart from what becomes of its packets.
        let change = |script: &str| assert_eq!(exec(cloud, &first, script).0, 0, "{script}");
        change("ip address add 10.80.0.66/24 dev eth0");
        let forged = exec(cloud, &first, &format!("ping -c 3 -W 2 -I 10.80.0.66 {four}"));
        assert_ne!(forged.0, 0, "a forged source gets through: {forged:?}");
        change("ip address del 10.80.0.66/24 dev eth0");
        comes_to_reach(cloud, &first, &four);
        change("cat /sys/class/net/eth0/address >/own; ip link set eth0 address fa:16:3e:66:66:66");
        assert!(!reaches(cloud, &first, &four), "a forged hardware address gets through");
        change("ip link set eth0 address $(cat /own)");
        comes_to_reach(cloud, &first, &four);

        floating_address(cloud, &network, &second, &four);
        [first, second].iter().for_each(|uuid| cloud.delete(uuid));
        cloud.openstack(&["security", "group", "delete", closed]).ok();
    });
}

/// A router that Neutron would make: a namespace on the integration bridge that has the gateway's port and translates an
/// address of the outside.
fn floating_address(cloud: &Cloud, network: &Network<'_>, uuid: &str, inside: &str) {
    let gateway = [
        "--network",
        &network.name,
        "--fixed-ip",
        "ip-address=10.80.0.1",
        "--host",
        "compute1",
        "--disable-port-security",
        "--no-security-group",
        "-f",
        "value",
    ];
    let made = cloud
        .openstack(
            &[&["port", "create"], &gateway[..], &["-c", "id", "-c", "mac_address", "gateway"]].concat(),
        )
        .ok();
    let (id, mac) = made.trim().split_once('\n').unwrap();
    cloud.shell(&format!(
        "set -e; ip netns add zk-router; ip netns add zk-outside
         ovs-vsctl --timeout=30 add-port br-int zk-gateway tag=4095 -- set Interface zk-gateway type=internal mac='\"{mac}\"' \\
           external-ids:iface-id={id} external-ids:iface-status=active external-ids:attached-mac='\"{mac}\"'
         ip link set zk-gateway netns zk-router
         ip link add zk-in netns zk-router type veth peer name zk-out netns zk-outside
         in_router() {{ ip netns exec zk-router \"$@\"; }}
         in_router ip address add 10.80.0.1/24 dev zk-gateway; in_router ip link set zk-gateway mtu 1450 up
         in_router ip address add 203.0.113.1/24 dev zk-in; in_router ip link set zk-in up; in_router sysctl -qw net.ipv4.ip_forward=1
         in_router iptables -t nat -A PREROUTING -d 203.0.113.5 -j DNAT --to-destination {inside}
         in_router iptables -t nat -A POSTROUTING -s {inside} -o zk-in -j SNAT --to-source 203.0.113.5
         in_router ip address add 203.0.113.5/32 dev zk-in
         ip netns exec zk-outside ip address add 203.0.113.9/24 dev zk-out; ip netns exec zk-outside ip link set zk-out up"
    ));
    eventually(120, "the floating address is answered", || {
        let said = cloud.on_host(&[
            "ip",
            "netns",
            "exec",
            "zk-outside",
            "busybox",
            "ping",
            "-c",
            "2",
            "-W",
            "3",
            "203.0.113.5",
        ]);
        if said.status == 0 { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
    });
    // By its default route.
    comes_to_reach(cloud, uuid, "203.0.113.9");
    // The first namespace on a host makes the mount.
    cloud.shell(
        "ip netns del zk-outside; ip netns del zk-router; umount /run/netns
         ovs-vsctl --timeout=30 del-port zk-gateway",
    );
    cloud.openstack(&["port", "delete", id]).ok();
}

/// Longest time in seconds for which a steady ping was not answered, by the numbers of its packets in the container's log
/// after the first `skipped`.
fn longest_silence(cloud: &Cloud, uuid: &str, skipped: usize) -> f64 {
    let logs = cloud.openstack(&["appcontainer", "logs", uuid]).ok();
    let number = |line: &str| line.split_once("seq=")?.1.split(' ').next()?.parse::<u32>().ok();
    let numbers: Vec<u32> = logs.lines().filter_map(number).skip(skipped).collect();
    assert!(numbers.len() > 5, "{logs}");
    let most = numbers.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) - 1).max().unwrap();
    f64::from(most) * PING_INTERVAL
}

fn answered(cloud: &Cloud, uuid: &str) -> usize {
    cloud.openstack(&["appcontainer", "logs", uuid]).ok().lines().filter(|line| line.contains("seq=")).count()
}

/// Waits until the ping has been answered some more times.
fn goes_on(cloud: &Cloud, uuid: &str) {
    let before = answered(cloud, uuid);
    eventually(60, "the ping goes on", || {
        let now = answered(cloud, uuid);
        if now > before + 5 { Ok(()) } else { Err(format!("{before}, {now}")) }
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn traffic_goes_on_while_networks_and_services_come_and_go() {
    in_cloud(|cloud| {
        let (network, other) = (cloud.network("10.81.0.0/24"), cloud.network("10.82.0.0/24"));
        let target = run(cloud, &network, &[], "sleep 100000");
        let [address, _] = addresses(cloud, &target);
        // While its address changes a packet may have no way, of which ping ends.
        let ping = format!("ping -i {PING_INTERVAL} {address}; sleep 100000");
        let pinging = run(cloud, &network, &[], &ping);
        goes_on(cloud, &pinging);

        let change = |verb: &str| {
            cloud.openstack(&["appcontainer", "network", verb, "--network", &other.name, &pinging]).ok();
        };
        let interfaces = |wanted: usize| {
            eventually(90, &format!("it has {wanted} interfaces"), || {
                let (_, out) = exec(cloud, &pinging, "ip -o -4 address | grep -c eth");
                if out.trim() == wanted.to_string() { Ok(()) } else { Err(out) }
            });
            cloud.wait_for_status(&pinging, "Running");
        };
        change("attach");
        interfaces(2);
        change("detach");
        interfaces(1);
        change("attach");
        interfaces(2);
        goes_on(cloud, &pinging);
        let silence = longest_silence(cloud, &pinging, 0);
        assert!(silence < 1.0, "{silence} s of silence");

        // An agent that starts wires all ports anew.
        let so_far = answered(cloud, &pinging);
        let restart = cloud.crash_neutron_agent().as_secs_f64();
        goes_on(cloud, &pinging);
        let silence = longest_silence(cloud, &pinging, so_far);
        assert!(silence < restart, "{silence} s of silence for an agent that took {restart} s");
        // Our service has nothing to do with packets of ports that are wired.
        let so_far = answered(cloud, &pinging);
        Killed::now(cloud).revive();
        goes_on(cloud, &pinging);
        let silence = longest_silence(cloud, &pinging, so_far);
        assert!(silence < 1.0, "{silence} s of silence");

        follow_what_others_do(cloud, &pinging, &target);
        [pinging, target].iter().for_each(|uuid| cloud.delete(uuid));
    });
}

/// A port's address is changed, and another port is taken away, by somebody who asks Neutron and not Zun.
fn follow_what_others_do(cloud: &Cloud, pinging: &str, target: &str) {
    let port_on = |prefix: &str| {
        cloud.sql(&format!(
            "SELECT p.id FROM neutron.ports p JOIN neutron.ipallocations a ON a.port_id = p.id
             WHERE p.device_id = '{pinging}' AND a.ip_address LIKE '{prefix}%'"
        ))
    };
    cloud.openstack(&["port", "delete", &port_on("10.82.")]).ok();
    let subnet = cloud.sql(&format!(
        "SELECT a.subnet_id FROM neutron.ipallocations a WHERE a.port_id = '{}'",
        port_on("10.81.")
    ));
    let fixed = format!("subnet={subnet},ip-address=10.81.0.77");
    cloud.openstack(&["port", "set", "--no-fixed-ip", "--fixed-ip", &fixed, &port_on("10.81.")]).ok();
    eventually(90, "the container has what its ports have", || {
        let (_, inside) = exec(cloud, pinging, "ip -o -4 address | grep eth");
        let shown = cloud.show(pinging)["addresses"].as_str().unwrap_or_default().to_owned();
        let right =
            inside.trim().lines().count() == 1 && inside.contains("10.81.0.77/24") && shown == "10.81.0.77";
        if right { Ok(()) } else { Err(format!("{inside}{shown}")) }
    });
    comes_to_reach(cloud, target, "10.81.0.77");
    assert_eq!(cloud.show(pinging)["status"], "Running");
}
