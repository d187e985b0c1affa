//! Interfaces that come and go.

use std::path::Path;

use cloud_tests::sandboxes;
use sandbox::{GuestNetwork, Nic, NicAddress, RateLimit, Sandbox, SandboxSpec};

use crate::fixture::{self, Fixture};

const LONG: [&str; 2] = ["sleep", "100000"];

async fn output(sandbox: &Sandbox, script: &str) -> String {
    fixture::output(sandbox, "c", script).await
}

fn shell(script: &str) {
    sandboxes::shell(script, Path::new("/"));
}

fn nic(number: u8) -> Nic {
    Nic {
        tap: format!("zks{number}"),
        mac: format!("fa:16:3e:00:01:0{number}"),
        mtu: 1400,
        name: format!("eth{number}"),
        addresses: vec![NicAddress { ip: format!("198.18.{number}.2").parse().unwrap(), prefix: 24 }],
        routes: Vec::new(),
    }
}

/// Threads of the host's kernel that move packets.
fn vhost_threads() -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_vhost = |comm: &String| comm.starts_with("vhost-");
    processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("comm")).ok())
        .filter(is_vhost)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn interfaces_come_and_go_while_a_sandbox_runs() {
    let fixture = Fixture::new();
    for number in 0..3 {
        shell(&format!(
            "ip link delete zks{number} 2>/dev/null || true
             ip tuntap add dev zks{number} mode tap vnet_hdr; ip link set zks{number} up
             ip address add 198.18.{number}.1/24 dev zks{number}"
        ));
    }
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let limit = RateLimit::default();
    // The second is taken out of the middle; the third has by then the place and the name that the kernel gave another.
    let join = async |numbers: &[u8]| {
        let nics = numbers.iter().map(|number| nic(*number)).collect();
        sandbox.set_network(&GuestNetwork { nics, ..GuestNetwork::default() }, "guest").await.unwrap();
    };
    for (number, all) in [(2, &[2][..]), (0, &[2, 0])] {
        sandbox.attach(&nic(number), limit).await.unwrap();
        join(all).await;
        output(&sandbox, &format!("ping -c 2 -W 5 198.18.{number}.1")).await;
    }
    let refused = sandbox.attach(&nic(0), limit).await.unwrap_err().to_string();
    assert!(refused.contains("busy") || refused.contains("in one already"), "{refused}");

    // The kernel's own threads move packets, and go on after a pause where they were.
    assert_eq!(vhost_threads(), 2);
    for _ in 0..3 {
        sandbox.pause().await.unwrap();
        sandbox.resume().await.unwrap();
        output(&sandbox, "ping -c 2 -W 5 198.18.0.1").await;
    }
    let traffic = sandbox.traffic().await.unwrap();
    let of = |device: &str| traffic.iter().find(|traffic| traffic.device == device).unwrap();
    let (through, image) = (of(&nic(2).mac), of("image-c"));
    assert!(through.outgoing.operations >= 2 && through.incoming.bytes >= 2 * 98, "{through:?}");
    assert!(image.incoming.bytes > 0 && image.outgoing.operations == 0, "{image:?}");
    sandbox.detach(&nic(2).mac).await.unwrap();
    assert!(!output(&sandbox, "ip address").await.contains("198.18.2.2"));
    output(&sandbox, "ping -c 2 -W 5 198.18.0.1").await;
    // Nobody holds the tap any more.
    shell(
        "ip tuntap del dev zks2 mode tap; ip tuntap add dev zks2 mode tap vnet_hdr; ip link set zks2 up
           ip address add 198.18.2.1/24 dev zks2",
    );

    // No thread of the kernel's keeps a bound.
    let bound = RateLimit { bytes: 100 << 20, ..limit };
    sandbox.attach(&nic(1), bound).await.unwrap();
    assert_eq!(vhost_threads(), 1);
    sandbox.attach(&nic(2), limit).await.unwrap();
    join(&[0, 1, 2]).await;
    for number in 0..3 {
        output(&sandbox, &format!("ping -c 2 -W 5 198.18.{number}.1")).await;
        let link = output(&sandbox, &format!("cat /sys/class/net/eth{number}/address")).await;
        assert_eq!(link, nic(number).mac);
    }
    sandbox.detach("fa:16:3e:00:01:ff").await.expect("that it has none is as good");
    let missing = sandbox.attach(&Nic { tap: "zks9".into(), ..nic(3) }, limit).await.unwrap_err();
    assert!(missing.to_string().contains("zks9"), "{missing}");
    sandbox.delete().await.unwrap();
    for number in 0..3 {
        shell(&format!("ip link delete zks{number}"));
    }
    fixture.assert_clean();
}

/// What each processor sends goes by its own queue, and its answer comes by the same.
async fn ping_from_each_processor(sandbox: &Sandbox, host: u8) {
    for mask in [1, 2] {
        output(sandbox, &format!("taskset {mask} ping -c 2 -W 5 198.18.{host}.1")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_guest_of_several_processors_has_as_many_queues() {
    let fixture = Fixture::new();
    for (number, kind) in [(0, "multi_queue"), (1, "multi_queue"), (2, "")] {
        shell(&format!(
            "ip tuntap add dev zks{number} mode tap vnet_hdr {kind}; ip link set zks{number} up
             ip address add 198.18.{number}.1/24 dev zks{number}"
        ));
    }
    let bound = RateLimit { bytes: 100 << 20, ..RateLimit::default() };
    // The second guest goes on from the first one's template, in which the driver has made use of both pairs.
    for from_template in [false, true] {
        let sandbox = fixture.host().sandbox("c");
        sandbox.create().unwrap();
        let spec = SandboxSpec { cpus: 2.0, ..fixture.spec_of_group("project") };
        assert_eq!(sandbox.start(&spec).await.unwrap().from_template, from_template);
        fixture.run(&sandbox, "c", &LONG).await;
        assert_eq!(vhost_threads(), 0, "an empty slot needs none");
        sandbox.attach(&nic(0), RateLimit::default()).await.unwrap();
        // This process moves what a bound holds, and what comes from a tap of one queue.
        sandbox.attach(&nic(1), bound).await.unwrap();
        sandbox.attach(&nic(2), RateLimit::default()).await.unwrap();
        let network = GuestNetwork { nics: (0..3).map(nic).collect(), ..GuestNetwork::default() };
        sandbox.set_network(&network, "guest").await.unwrap();
        for number in 0..3 {
            let queues = output(&sandbox, &format!("ls /sys/class/net/eth{number}/queues")).await;
            assert_eq!(queues.split_whitespace().collect::<Vec<_>>(), ["rx-0", "rx-1", "tx-0", "tx-1"]);
            ping_from_each_processor(&sandbox, number).await;
        }
        assert_eq!(vhost_threads(), 2, "one for each queue of the first interface");
        sandbox.pause().await.unwrap();
        sandbox.resume().await.unwrap();
        for number in 0..3 {
            ping_from_each_processor(&sandbox, number).await;
        }
        sandbox.detach(&nic(0).mac).await.unwrap();
        sandbox.attach(&nic(0), RateLimit::default()).await.unwrap();
        sandbox.set_network(&network, "guest").await.unwrap();
        ping_from_each_processor(&sandbox, 0).await;
        sandbox.delete().await.unwrap();
    }
    for number in 0..3 {
        shell(&format!("ip link delete zks{number}"));
    }
    fixture.assert_clean();
}
