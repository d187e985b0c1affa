//! The agent as a client of Kata's `AgentService` sees it, which comes over the sandbox's own socket.

use agent_protocol::AGENT_PORT;
use agent_protocol::messages::{
    ARPNeighbor, ARPNeighbors, AddARPNeighborsRequest, GuestDetailsRequest, IPAddress, ListInterfacesRequest,
    ListRoutesRequest, PauseContainerRequest, ResumeContainerRequest, UpdateRoutesRequest,
    VolumeStatsRequest,
};
use agent_protocol::messages::{Route, Routes};
use agent_protocol::service::AgentServiceClient;
use protobuf::MessageField;
use sandbox::Sandbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{Context, with_duration};

use crate::fixture::Fixture;
use crate::query;

/// The kernel's number for an entry that never ends (`linux/neighbour.h`).
const PERMANENT: i32 = 0x80;

fn deadline() -> Context {
    with_duration(std::time::Duration::from_secs(30))
}

async fn connect(sandbox: &Sandbox) -> AgentServiceClient {
    let mut stream = UnixStream::connect(sandbox.path().join("run/vsock.sock")).await.unwrap();
    stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes()).await.unwrap();
    while stream.read_u8().await.unwrap() != b'\n' {}
    AgentServiceClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn the_processes_of_a_container_stop_and_go_on() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &["sh", "-c", "while :; do echo tick; usleep 20000; done"]).await;
    let agent = connect(&sandbox).await;
    let pause = PauseContainerRequest { container_id: "c".into(), ..Default::default() };
    agent.pause_container(deadline(), &pause).await.unwrap();
    let ticks = || sandbox.logs("c", &query()).unwrap().lines().count();
    // What was written before may still be on its way.
    let settled = cloud_tests::eventually(10, "it stands still", || {
        let before = ticks();
        std::thread::sleep(std::time::Duration::from_millis(300));
        if ticks() == before { Ok(before) } else { Err(before.to_string()) }
    });
    let resume = ResumeContainerRequest { container_id: "c".into(), ..Default::default() };
    agent.resume_container(deadline(), &resume).await.unwrap();
    cloud_tests::eventually(10, "it goes on", || {
        if ticks() > settled { Ok(()) } else { Err(ticks().to_string()) }
    });
    let nobody = PauseContainerRequest { container_id: "nobody".into(), ..Default::default() };
    let error = agent.pause_container(deadline(), &nobody).await.unwrap_err().to_string();
    assert!(error.contains("there is no container nobody"), "{error}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn the_guests_network_and_disks_are_told() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &["sleep", "100000"]).await;
    let agent = connect(&sandbox).await;
    let found =
        agent.list_interfaces(deadline(), &ListInterfacesRequest::default()).await.unwrap().Interfaces;
    let loopback = found.iter().find(|interface| interface.name == "lo").unwrap();
    let address = |ip: &str| loopback.IPAddresses.iter().any(|address| address.address == ip);
    assert!(address("127.0.0.1") && loopback.mtu == 65536, "{loopback:?}");
    assert_eq!(
        found.iter().filter(|interface| interface.hwAddr.starts_with("02:7a:75:6e")).count(),
        4,
        "slots"
    );

    let route = Route { dest: "198.18.7.0/24".into(), device: "lo".into(), ..Default::default() };
    let routes = MessageField::some(Routes { Routes: vec![route], ..Default::default() });
    agent.update_routes(deadline(), &UpdateRoutesRequest { routes, ..Default::default() }).await.unwrap();
    let routes = agent.list_routes(deadline(), &ListRoutesRequest::default()).await.unwrap().Routes;
    assert!(routes.iter().any(|route| route.dest == "198.18.7.0/24" && route.device == "lo"), "{routes:?}");

    let neighbour = ARPNeighbor {
        toIPAddress: MessageField::some(IPAddress { address: "198.18.7.9".into(), ..Default::default() }),
        device: "eth0".into(),
        lladdr: "fa:16:3e:00:00:09".into(),
        state: PERMANENT,
        ..Default::default()
    };
    let neighbors = MessageField::some(ARPNeighbors { ARPNeighbors: vec![neighbour], ..Default::default() });
    let request = AddARPNeighborsRequest { neighbors, ..Default::default() };
    agent.add_arp_neighbors(deadline(), &request).await.unwrap();
    let table = sandbox.exec(crate::fixture::exec("c", &["cat", "/proc/net/arp"])).await.unwrap().output;
    assert!(table.contains("198.18.7.9") && table.contains("fa:16:3e:00:00:09"), "{table}");

    let path = "/run/kata-containers/containers/c/writable";
    let volume = VolumeStatsRequest { volume_guest_path: path.into(), ..Default::default() };
    let usage = agent.get_volume_stats(deadline(), &volume).await.unwrap().usage;
    assert!(
        (900 << 20..=1 << 30).contains(&usage[0].total) && usage[0].available <= usage[0].total,
        "{usage:?}"
    );
    assert!(usage[1].total > usage[1].available, "{usage:?}");

    let details = GuestDetailsRequest { mem_block_size: true, ..Default::default() };
    let details = agent.get_guest_details(deadline(), &details).await.unwrap();
    assert_eq!(details.mem_block_size_bytes, 128 << 20);
    assert!(details.agent_details.supports_seccomp && details.agent_details.init_daemon);
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}
