//! Guests that go on from a template.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloud_tests::sandboxes;
use sandbox::{GuestNetwork, Nic, NicAddress, Sandbox, SandboxSpec, SandboxState, SandboxStatus, Stage};

use crate::fixture::{Fixture, output};

const LONG: [&str; 2] = ["sleep", "100000"];
const GROUP: &str = "project";

async fn start(fixture: &Fixture, id: &str, spec: &SandboxSpec) -> (Sandbox, SandboxState) {
    let sandbox = fixture.host().sandbox(id);
    sandbox.create().unwrap();
    sandbox.start(spec).await.unwrap();
    fixture.run(&sandbox, id, &LONG).await;
    let SandboxStatus::Live(state) = sandbox.status().await else { panic!("it does not live") };
    (sandbox, state)
}

fn templates(fixture: &Fixture) -> Vec<PathBuf> {
    let entries =
        |path: &Path| std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries(&fixture.templates()).flat_map(|boot| entries(&boot)).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn guests_of_one_template_differ_in_what_must_differ() {
    let fixture = Fixture::new();
    let of_group = SandboxSpec { ends_with: None, ..fixture.spec_of_group(GROUP) };
    let (maker, state) = start(&fixture, "a", &of_group).await;
    assert!(!state.from_template && state.stages.contains_key(&Stage::TemplateSaved));
    let mut seen = vec![output(&maker, "a", "head -c 16 /dev/urandom | hexdump -v").await];
    tokio::time::sleep(Duration::from_secs(3)).await;
    for id in ["b", "c"] {
        let (sandbox, state) = start(&fixture, id, &of_group).await;
        assert!(state.from_template);
        let random = output(&sandbox, id, "head -c 16 /dev/urandom | hexdump -v").await;
        assert!(!seen.contains(&random), "{random} again");
        seen.push(random);
        let guest: u64 = output(&sandbox, id, "date +%s").await.parse().unwrap();
        let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(guest.abs_diff(host) <= 2, "the guest's clock is at {guest}, the host's at {host}");
        output(&sandbox, id, "test ! -e /mark && echo x >/mark && sync").await;
        sandbox.delete().await.unwrap();
    }
    assert_eq!(output(&maker, "a", "test ! -e /mark && hostname").await, "guest");
    maker.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_guest_of_a_template_has_its_own_interfaces() {
    let fixture = Fixture::new();
    shell(
        "ip tuntap add dev zkt0 mode tap vnet_hdr; ip address add 198.18.0.1/24 dev zkt0; ip link set zkt0 up",
    );
    let nic = |mac: &str| Nic {
        tap: "zkt0".into(),
        mac: mac.into(),
        mtu: 9000,
        name: "eth0".into(),
        addresses: vec![NicAddress { ip: "198.18.0.2".parse().unwrap(), prefix: 24 }],
        routes: Vec::new(),
    };
    for (n, mac) in ["fa:16:3e:00:00:01", "fa:16:3e:00:00:02"].into_iter().enumerate() {
        let network = GuestNetwork { nics: vec![nic(mac)], ..GuestNetwork::default() };
        let (sandbox, state) =
            start(&fixture, "c", &SandboxSpec { network, ..fixture.spec_of_group(GROUP) }).await;
        assert_eq!(state.from_template, n > 0);
        let link = output(&sandbox, "c", "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu").await;
        assert_eq!(link, format!("{mac}\n9000"));
        output(&sandbox, "c", "ping -c 2 -W 5 198.18.0.1").await;
        shell("ip link set zkt0 mtu 9000; busybox ping -c 2 -W 5 -s 8000 198.18.0.2");
        sandbox.delete().await.unwrap();
    }
    shell("ip link delete zkt0");
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn all_processors_of_a_template_go_on() {
    let fixture = Fixture::new();
    let wide = SandboxSpec { template_group: Some(GROUP.into()), ..fixture.spec(4.0) };
    for round in 0..2 {
        let (sandbox, state) = start(&fixture, "c", &wide).await;
        assert_eq!(state.from_template, round > 0);
        let script = "for mask in 1 2 4 8; do taskset $mask echo ran || exit 1; done | wc -l";
        assert_eq!(output(&sandbox, "c", script).await, "4");
        sandbox.delete().await.unwrap();
    }
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_template_that_is_damaged_is_made_again() {
    let fixture = Fixture::new();
    let mut from_template = Vec::new();
    for damaged in [None, Some("state"), Some("memory"), None] {
        if let (Some(file), [template]) = (damaged, &templates(&fixture)[..]) {
            std::fs::write(template.join(file), "nonsense").unwrap();
        }
        for _ in 0..2 {
            let (sandbox, state) = start(&fixture, "c", &fixture.spec_of_group(GROUP)).await;
            from_template.push(state.from_template);
            sandbox.delete().await.unwrap();
        }
    }
    // Made and used; found damaged, and made again, twice; used.
    assert_eq!(from_template, [false, true, false, false, false, false, true, true]);
    fixture.assert_clean();
}

fn shell(script: &str) {
    sandboxes::shell(script, Path::new("/"));
}
