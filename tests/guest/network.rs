//! What a guest knows of its network, and how that changes while it runs.

use std::path::Path;

use cloud_tests::sandboxes;
use sandbox::{GuestNetwork, Nic, NicAddress, NicRoute, RateLimit};

use crate::fixture::{Fixture, output};

const LONG: [&str; 2] = ["sleep", "100000"];

fn shell(script: &str) {
    sandboxes::shell(script, Path::new("/"));
}

fn prefix(text: &str) -> NicAddress {
    let (ip, prefix) = text.split_once('/').unwrap();
    NicAddress { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

fn nic(number: u8, addresses: &[&str], routes: &[(&str, &str)]) -> Nic {
    let route = |(destination, gateway): &(&str, &str)| NicRoute {
        destination: (!destination.is_empty()).then(|| prefix(destination)),
        gateway: Some(gateway.parse().unwrap()),
    };
    Nic {
        tap: format!("zkn{number}"),
        mac: format!("fa:16:3e:00:02:0{number}"),
        mtu: 1400,
        name: format!("eth{number}"),
        addresses: addresses.iter().map(|address| prefix(address)).collect(),
        routes: routes.iter().map(route).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_guest_has_both_families_and_follows_changes() {
    let fixture = Fixture::new();
    // The host announces itself as a router, of which the guest must not hear.
    shell(
        "for n in 0 1; do ip link delete zkn$n 2>/dev/null || true; ip tuntap add dev zkn$n mode tap vnet_hdr; ip link set zkn$n up; done
         ip address add 198.18.0.1/24 dev zkn0; ip address add fd00:18::1/64 dev zkn0 nodad
         ip address add 198.18.1.1/24 dev zkn1; ip address add fd00:19::1/64 dev zkn1 nodad",
    );
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let first =
        nic(0, &["198.18.0.2/24", "fd00:18::2/64"], &[("", "198.18.0.1"), ("192.0.2.0/24", "198.18.0.9")]);
    let second = nic(1, &["198.18.1.2/24", "fd00:19::2/64"], &[("", "198.18.1.1"), ("", "fd00:19::1")]);
    for one in [&first, &second] {
        sandbox.attach(one, RateLimit::default()).await.unwrap();
    }
    let network = GuestNetwork {
        nics: vec![first.clone(), second.clone()],
        dns: vec!["198.18.0.1".parse().unwrap()],
        search: vec!["example.org".into()],
    };
    sandbox.set_network(&network, "web").await.unwrap();
    let run = async |script: &str| output(&sandbox, "c", script).await;
    for address in ["198.18.0.1", "fd00:18::1", "fd00:19::1"] {
        run(&format!("ping -c 2 -W 5 {address}")).await;
    }
    let routes = run("ip route; ip -6 route").await;
    assert!(
        routes.contains("default via 198.18.0.1 dev eth0") && routes.contains("192.0.2.0/24 via 198.18.0.9"),
        "{routes}"
    );
    assert!(routes.contains("default via fd00:19::1 dev eth1") && !routes.contains("198.18.1.1"), "{routes}");
    assert_eq!(run("cat /etc/resolv.conf").await, "search example.org\nnameserver 198.18.0.1");
    assert!(run("cat /etc/hosts").await.contains("fd00:18::2\tweb.example.org web"));
    let settings = run("cd /proc/sys/net/ipv6/conf; cat eth0/accept_ra eth1/accept_ra eth0/autoconf").await;
    assert_eq!(settings, "0\n0\n0");
    assert!(!run("ip -6 address").await.contains("tentative"), "an address can be used at once");

    // The first gets other addresses and loses its routes: what pointed there goes, and the second's gateway takes over.
    let changed = nic(0, &["198.18.0.3/24"], &[]);
    sandbox
        .set_network(&GuestNetwork { nics: vec![changed, second], ..GuestNetwork::default() }, "web")
        .await
        .unwrap();
    let addresses = run("ip address show eth0").await;
    assert!(addresses.contains("198.18.0.3/24") && addresses.contains("fe80::"), "{addresses}");
    assert!(!addresses.contains("198.18.0.2/") && !addresses.contains("fd00:18::2"), "{addresses}");
    let routes = run("ip route").await;
    assert!(routes.contains("default via 198.18.1.1 dev eth1") && !routes.contains("192.0.2.0"), "{routes}");
    run("ping -c 2 -W 5 198.18.0.1 && ping -c 2 -W 5 198.18.1.1").await;
    assert_eq!(run("cat /etc/resolv.conf").await, "");

    let missing = sandbox
        .set_network(&GuestNetwork { nics: vec![nic(3, &[], &[])], ..GuestNetwork::default() }, "web")
        .await;
    assert!(missing.unwrap_err().to_string().contains("fa:16:3e:00:02:03"));
    sandbox.delete().await.unwrap();
    shell("ip link delete zkn0; ip link delete zkn1");
    fixture.assert_clean();
}
