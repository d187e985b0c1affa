//! Ports on real bridges of each kind, with a guest behind them that is heard or not.

use std::path::Path;

use cloud_tests::sandboxes;
use network::{DeviceNames, Plugged, Unplugged, Vif, may_be_anothers, plugged, unplug};
use sandbox::{GuestNetwork, Nic, NicAddress, RateLimit, Sandbox, TapCounters};
use serde_json::{Value, json};

use crate::fixture::{Fixture, exec};

const LONG: [&str; 2] = ["sleep", "100000"];
const PORT: &str = "d8c83230-3c87-41a2-84c8-7d9c36eb3277";
const OWNER: &str = "the-container";
const MAC: &str = "fa:16:3e:00:03:01";
const PEER: &str = "198.18.3.1";
/// The tests share one Open vSwitch, and the names of one port's devices.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Open vSwitch with an integration bridge of the test's own, once.
const OPEN_VSWITCH: &str = "
    mkdir -p /run/openvswitch
    if ! ovs-vsctl --timeout=5 show >/dev/null 2>&1; then
      ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
      ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --detach --no-chdir --pidfile --log-file=/dev/null
      ovs-vsctl --timeout=20 --no-wait init
      until awk '{ exit $1 < 11 }' /proc/uptime; do sleep 0.1; done
      ovs-vswitchd --detach --no-chdir --pidfile --log-file=/dev/null
    fi
    ovs-vsctl --timeout=30 --may-exist add-br br-int";

fn shell(script: &str) {
    sandboxes::shell(script, Path::new("/"));
}

fn said(script: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn vif(vif_type: &str, details: Value) -> Vif {
    Vif {
        port_id: PORT.into(),
        network_id: "0a1b2c3d-4e5f-6789-abcd-ef0123456789".into(),
        owner: OWNER.into(),
        host: "lab".into(),
        mac: MAC.into(),
        mtu: 1400,
        vif_type: vif_type.into(),
        details: details.as_object().cloned().unwrap(),
    }
}

/// A guest on the port's tap.
async fn guest(fixture: &Fixture) -> Sandbox {
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    sandbox.attach(&nic("198.18.3.2"), RateLimit::default()).await.unwrap();
    use_address(&sandbox, "198.18.3.2").await;
    sandbox
}

fn nic(address: &str) -> Nic {
    Nic {
        tap: DeviceNames::of_port(PORT).tap,
        mac: MAC.into(),
        mtu: 1400,
        name: "eth0".into(),
        addresses: vec![NicAddress { ip: address.parse().unwrap(), prefix: 24 }],
        routes: Vec::new(),
    }
}

async fn use_address(sandbox: &Sandbox, address: &str) {
    let network = GuestNetwork { nics: vec![nic(address)], ..GuestNetwork::default() };
    sandbox.set_network(&network, "guest").await.unwrap();
}

async fn reaches_peer(sandbox: &Sandbox, pings: u8) -> bool {
    let script = format!("ping -c {pings} -W 2 {PEER} >/dev/null");
    sandbox.exec(exec("c", &["sh", "-c", &script])).await.unwrap().status == 0
}

/// Whether the guest comes to reach its peer: a bridge may take a moment to learn of it.
async fn comes_to_reach_peer(sandbox: &Sandbox) -> bool {
    for _ in 0..15 {
        if reaches_peer(sandbox, 1).await {
            return true;
        }
    }
    false
}

fn assert_nothing_left() {
    let names = DeviceNames::of_port(PORT);
    for device in [names.tap, names.hybrid_bridge, names.bridge_end, names.ovs_end] {
        assert!(!Path::new("/sys/class/net").join(&device).exists(), "{device} is left");
    }
    assert_eq!(
        said("ovs-vsctl --bare --columns=name find Interface external_ids:zun-kata=true 2>/dev/null || true"),
        ""
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_port_on_the_linux_bridge_of_its_network() {
    let _turn = TURN.lock().await;
    let fixture = Fixture::new();
    shell(&format!(
        "ip link add brq0a1b2c3d-4e type bridge; ip link set brq0a1b2c3d-4e up; ip address add {PEER}/24 dev brq0a1b2c3d-4e"
    ));
    vif("bridge", json!({})).plug(1).await.unwrap();
    let names = DeviceNames::of_port(PORT);
    assert_eq!(said(&format!("basename $(readlink /sys/class/net/{}/master)", names.tap)), "brq0a1b2c3d-4e");
    assert_eq!(
        said(&format!(
            "cat /sys/class/net/{}/mtu /proc/sys/net/ipv6/conf/{}/disable_ipv6",
            names.tap, names.tap
        )),
        "1400\n1"
    );
    let sandbox = guest(&fixture).await;
    assert!(comes_to_reach_peer(&sandbox).await);
    let counted = TapCounters::read(&names.tap).unwrap();
    assert!(counted.outgoing.operations > 0 && counted.incoming.bytes > 0, "{counted:?}");
    sandbox.delete().await.unwrap();
    unplug(PORT, Some(OWNER)).await.unwrap();
    shell("ip link delete brq0a1b2c3d-4e");
    assert_nothing_left();
    // The bridge of a network that Neutron's agent has not made yet.
    vif("bridge", json!({ "bridge_name": "brqtest" })).plug(1).await.unwrap();
    unplug(PORT, Some(OWNER)).await.unwrap();
    shell("ip link delete brqtest");
    // A guest of several processors has a tap of several queues (`IFF_MULTI_QUEUE`).
    for (queue_pairs, several) in [(1, 0), (2, 0x100)] {
        vif("tap", json!({})).plug(queue_pairs).await.unwrap();
        let flags = said(&format!("cat /sys/class/net/{}/tun_flags", names.tap));
        assert_eq!(u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap() & 0x100, several);
        unplug(PORT, Some(OWNER)).await.unwrap();
    }
    assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_port_on_open_vswitch_reaches_nobody_before_it_is_wired() {
    let _turn = TURN.lock().await;
    let fixture = Fixture::new();
    shell(OPEN_VSWITCH);
    shell(&format!(
        "ovs-vsctl --timeout=30 --may-exist add-port br-int zkpeer tag=7 -- set Interface zkpeer type=internal
         ip address replace {PEER}/24 dev zkpeer; ip link set zkpeer mtu 1400 up"
    ));
    let names = DeviceNames::of_port(PORT);
    for (details, device) in [
        (json!({ "bound_drivers": { "0": "openvswitch" } }), &names.tap),
        (json!({ "bound_drivers": { "0": "openvswitch" }, "ovs_hybrid_plug": true }), &names.ovs_end),
    ] {
        vif("ovs", details).plug(1).await.unwrap();
        let ids = said(&format!("ovs-vsctl get Interface {device} external_ids"));
        for id in
            [format!("iface-id=\"{PORT}\""), format!("attached-mac=\"{MAC}\""), format!("vm-uuid={OWNER}")]
        {
            assert!(ids.contains(&id), "{ids} has no {id}");
        }
        let sandbox = guest(&fixture).await;
        // Neutron's agent drops what is on the dead VLAN; here it is enough that nobody else is on it.
        assert!(!reaches_peer(&sandbox, 3).await, "a port that is not wired reaches somebody");
        shell(&format!("ovs-vsctl set Port {device} tag=7"));
        assert!(comes_to_reach_peer(&sandbox).await);
        sandbox.delete().await.unwrap();
        unplug(PORT, Some(OWNER)).await.unwrap();
        assert_nothing_left();
    }
    shell("ovs-vsctl del-port zkpeer");
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_port_that_ovn_wires() {
    let _turn = TURN.lock().await;
    let fixture = Fixture::new();
    shell(OPEN_VSWITCH);
    shell(&format!(
        "mkdir -p /run/ovn; cd /run/ovn
         for db in nb sb; do
           ovsdb-tool create $db.db /usr/share/ovn/ovn-$db.ovsschema
           ovsdb-server $db.db --remote=punix:/run/ovn/ovn${{db}}_db.sock --unixctl=/run/ovn/$db.ctl --detach --no-chdir --pidfile=/run/ovn/$db.pid --log-file=/dev/null
         done
         ovn-northd --detach --no-chdir --pidfile --log-file=/dev/null
         ovs-vsctl --timeout=30 set Open_vSwitch . external_ids:system-id=lab external_ids:ovn-remote=unix:/run/ovn/ovnsb_db.sock \\
           external_ids:ovn-encap-type=geneve external_ids:ovn-encap-ip=127.0.0.1 external_ids:ovn-bridge=br-ovn
         ovn-controller --detach --no-chdir --pidfile --log-file=/dev/null
         ovn-nbctl --timeout=30 ls-add ls0 -- lsp-add ls0 {PORT} -- lsp-set-addresses {PORT} '{MAC} 198.18.3.2' -- \\
           lsp-set-port-security {PORT} '{MAC} 198.18.3.2' -- lsp-add ls0 peer -- lsp-set-addresses peer 'fa:16:3e:00:03:09 {PEER}'
         ovs-vsctl --timeout=30 --may-exist add-br br-ovn -- --may-exist add-port br-ovn zkovn -- set Interface zkovn type=internal \\
           external_ids:iface-id=peer mac='\"fa:16:3e:00:03:09\"'
         ip address replace {PEER}/24 dev zkovn; ip link set zkovn mtu 1400 up"
    ));
    vif("ovs", json!({ "bridge_name": "br-ovn", "bound_drivers": { "0": "ovn" } })).plug(1).await.unwrap();
    shell(&format!("ovn-nbctl --timeout=60 wait-until Logical_Switch_Port {PORT} up=true"));
    let sandbox = guest(&fixture).await;
    assert!(comes_to_reach_peer(&sandbox).await);
    // The address that OVN knows is the only one that it lets out.
    use_address(&sandbox, "198.18.3.66").await;
    assert!(!reaches_peer(&sandbox, 3).await, "a forged source gets through");
    sandbox.delete().await.unwrap();
    unplug(PORT, Some(OWNER)).await.unwrap();
    shell(&format!("ovn-nbctl --timeout=60 wait-until Logical_Switch_Port {PORT} up=false"));
    assert_nothing_left();
    shell(
        "for name in ovn-controller ovn-northd; do kill $(cat /run/ovn/$name.pid); done
         kill $(cat /run/ovn/nb.pid /run/ovn/sb.pid); ovs-vsctl del-port zkovn; ovs-vsctl del-br br-ovn; rm -rf /run/ovn",
    );
    fixture.assert_clean();
}

/// Unplugs what is plugged on this host and is not in `used`, as the service does at its start.
async fn remove_leftovers(used: &[&str]) -> Vec<Plugged> {
    let mut left = plugged().await.unwrap();
    left.retain(|one| !used.contains(&one.port.as_str()));
    for Plugged { port, owner } in &left {
        assert_eq!(unplug(port, owner.as_deref()).await.unwrap(), Unplugged::Removed);
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn no_port_takes_anothers_device_and_none_of_a_crash_is_left() {
    let _turn = TURN.lock().await;
    shell(OPEN_VSWITCH);
    let ours = vif("ovs", json!({}));
    ours.plug(1).await.unwrap();
    let twin = Vif { port_id: format!("{}-the-rest-differs", &PORT[..11]), ..ours.clone() };
    let refused = twin.plug(1).await.unwrap_err().to_string();
    assert!(refused.contains(PORT), "{refused}");
    unplug(&twin.port_id, Some(OWNER)).await.unwrap();
    assert!(may_be_anothers(PORT, "its-container-before"));
    assert!(!may_be_anothers(PORT, OWNER) && !may_be_anothers(&twin.port_id, OWNER));
    // A container whose port was given to another one since, and who never knew whose it was.
    for before in [Some("its-container-before"), None] {
        assert_eq!(unplug(PORT, before).await.unwrap(), Unplugged::AnothersNow);
    }
    assert!(
        Path::new("/sys/class/net").join(DeviceNames::of_port(PORT).tap).exists(),
        "what is another's stays"
    );
    ours.plug(1).await.expect("what is left of itself is made anew");

    assert_eq!(remove_leftovers(&[PORT]).await, []);
    let ours_alone = [Plugged { port: PORT.into(), owner: Some(OWNER.into()) }];
    // A host that lost its power: Open vSwitch remembers what the kernel does not.
    shell(&format!("ip link delete {}", DeviceNames::of_port(PORT).tap));
    assert_eq!(remove_leftovers(&[]).await, ours_alone);
    assert_nothing_left();
    vif("ovs", json!({ "ovs_hybrid_plug": true })).plug(1).await.unwrap();
    assert_eq!(remove_leftovers(&[]).await, ours_alone);
    assert_nothing_left();
    // A tap of a release whose taps named no container.
    ours.plug(1).await.unwrap();
    let tap = DeviceNames::of_port(PORT).tap;
    shell(&format!(
        "ip link set {tap} alias 'zun-kata {PORT}'; ovs-vsctl remove Interface {tap} external_ids vm-uuid"
    ));
    assert_eq!(remove_leftovers(&[]).await, [Plugged { port: PORT.into(), owner: None }]);
    assert_nothing_left();

    let nowhere = vif("ovs", json!({ "bridge_name": "br-none" })).plug(1).await.unwrap_err().to_string();
    assert!(nowhere.contains("br-none"), "{nowhere}");
    assert_nothing_left();
}
