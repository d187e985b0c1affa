//! Our machine against QEMU's microvm: the same kernel, image, memory and vCPU.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_protocol::AGENT_PORT;
use agent_protocol::messages::GuestDetailsRequest;
use agent_protocol::service::AgentServiceClient;
use cloud_tests::{devstack, top};
use sandbox::{GuestNetwork, Host, HostOptions, SandboxSpec, Situation, Stage};
use tokio::runtime::Runtime;
use tokio_vsock::{VsockAddr, VsockStream};
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::with_duration;

use crate::median;

const ROUNDS: usize = 5;
const MEMORY_MIB: u64 = 128;
const OVERHEAD_MIB: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(120);

/// Seconds of one start.
struct Ours {
    /// From the caller's request.
    ready: f64,
    /// From the shim's first instruction.
    created: f64,
    entered: f64,
    agent: f64,
    network: f64,
}

pub fn run() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir_in("/var/lib/zun-kata").unwrap();
    let (mut cold, mut theirs, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    let making = runtime.block_on(start_ours(folder.path(), Some("benchmark")));
    for round in 0..ROUNDS {
        cold.push(runtime.block_on(start_ours(folder.path(), None)));
        theirs.push(runtime.block_on(start_microvm(folder.path(), 100 + round as u32)));
        restored.push(runtime.block_on(start_ours(folder.path(), Some("benchmark"))));
    }
    let qemu = median(theirs);
    println!(
        "Seconds, medians of {ROUNDS} starts each; columns after the first count from the shim's first instruction"
    );
    println!("                 answer   built  entered  agent  network");
    print_row("making template", &[making]);
    let own = print_row("cold", &cold);
    let template = print_row("from template", &restored);
    println!("QEMU microvm      {qemu:6.3}");
    println!("cold / QEMU microvm  {:.2}", own / qemu);
    println!("from template / cold {:.3}", template / own);
}

/// Prints the medians, and gives the one to the agent's answer.
fn print_row(name: &str, starts: &[Ours]) -> f64 {
    let of = |value: fn(&Ours) -> f64| median(starts.iter().map(value).collect());
    let agent = of(|one| one.agent);
    println!(
        "{name:16}  {:6.3}  {:6.3}  {:6.3}  {agent:6.3}  {:6.3}",
        of(|one| one.ready),
        of(|one| one.created),
        of(|one| one.entered),
        of(|one| one.network)
    );
    agent
}

async fn start_ours(folder: &Path, template_group: Option<&str>) -> Ours {
    let options = HostOptions {
        folder: folder.join("sandboxes"),
        shim: top().join("target/release/kata-shim"),
        kernel: devstack().join("vmlinux"),
        image: devstack().join("guest.initrd"),
        templates: folder.join("templates"),
        template_bytes: 1 << 30,
        users: folder.join("users"),
        first_user: 2_000_000_000,
        cgroup: "zun-kata-tests".into(),
        memory_overhead_mib: OVERHEAD_MIB,
        log_file_bytes: 1 << 20,
        log_files: 1,
    };
    let spec = SandboxSpec {
        cpus: 1.0,
        memory_mib: MEMORY_MIB,
        hostname: "guest".into(),
        rootfs: None,
        network: GuestNetwork::default(),
        ends_with: None,
        template_group: template_group.map(str::to_owned),
    };
    let sandbox = Host::new(options).unwrap().sandbox("benchmark");
    std::fs::create_dir(sandbox.path()).unwrap();
    let began = Instant::now();
    sandbox.start(&spec).await.unwrap();
    let ready = began.elapsed().as_secs_f64();
    let Situation::Live(state) = sandbox.situation().await else { panic!("the guest is gone") };
    if std::env::var_os("VERBOSE").is_some() {
        println!("{state:?} {}", std::fs::read_to_string(sandbox.path().join("shim.log")).unwrap());
    }
    sandbox.delete().await.unwrap();
    let since = |stage: Stage| (state.stages[&stage] - state.stages[&Stage::ShimStarted]) as f64 / 1e6;
    Ours {
        ready,
        created: since(Stage::VmCreated),
        entered: since(Stage::GuestEntered),
        agent: since(Stage::AgentReady),
        network: since(Stage::NetworkReady),
    }
}

async fn start_microvm(folder: &Path, cid: u32) -> f64 {
    let began = Instant::now();
    let mut qemu = microvm(folder, cid);
    let client = loop {
        if let Some(client) = answer(cid).await {
            break client;
        }
        let ended = qemu.try_wait().unwrap();
        let said = || std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
        assert!(ended.is_none() && began.elapsed() < PATIENCE, "the microvm does not come up: {}", said());
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let took = began.elapsed().as_secs_f64();
    drop(client);
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    took
}

fn microvm(folder: &Path, cid: u32) -> Child {
    let log = std::fs::File::create(folder.join("qemu.log")).unwrap();
    Command::new("qemu-system-x86_64")
        .args(["-M", "microvm,accel=kvm,acpi=off,pit=on,pic=on,rtc=off,isa-serial=on,x-option-roms=off"])
        .args([
            "-cpu",
            "host",
            "-smp",
            "1",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-m", &(MEMORY_MIB + OVERHEAD_MIB).to_string(), "-append", vmm::BASE_COMMAND_LINE])
        .arg("-kernel")
        .arg(devstack().join("vmlinux"))
        .arg("-initrd")
        .arg(devstack().join("guest.initrd"))
        .args(["-serial", &format!("file:{}/console", folder.display())])
        .args(["-device", &format!("vhost-vsock-device,guest-cid={cid}"), "-device", "virtio-rng-device"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The agent's client, if it answers already.
async fn answer(cid: u32) -> Option<AgentServiceClient> {
    let connect = VsockStream::connect(VsockAddr::new(cid, AGENT_PORT));
    let stream = tokio::time::timeout(Duration::from_secs(5), connect).await.ok()?.ok()?;
    let client = AgentServiceClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)));
    let context = with_duration(Duration::from_secs(60));
    client.get_guest_details(context, &GuestDetailsRequest::default()).await.ok()?;
    Some(client)
}
