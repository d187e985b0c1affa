//! Our machine against QEMU's microvm: the same kernel, image, memory and vCPU.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_protocol::AGENT_PORT;
use agent_protocol::messages::GuestDetailsRequest;
use agent_protocol::service::AgentServiceClient;
use cloud_tests::devstack;
use sandbox::{SandboxStatus, Stage};
use tokio::runtime::Runtime;
use tokio_vsock::{VsockAddr, VsockStream};
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::with_duration;

use crate::guests::Guests;
use crate::median;
use crate::sandboxes::{GUEST_MIB, Sandboxes};

const ROUNDS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// Seconds of one start.
struct Ours {
    /// From the caller's request to the container's process.
    running: f64,
    /// From the shim's first instruction.
    built: f64,
    entered: f64,
    agent: f64,
    ready: f64,
}

pub fn run() {
    let runtime = Runtime::new().unwrap();
    let sandboxes = Sandboxes::new();
    let (mut cold, mut theirs, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    let making = runtime.block_on(start_ours(&sandboxes, Some("group")));
    for round in 0..ROUNDS {
        cold.push(runtime.block_on(start_ours(&sandboxes, None)));
        theirs.push(runtime.block_on(start_microvm(sandboxes.folder(), 100 + round as u32)));
        restored.push(runtime.block_on(start_ours(&sandboxes, Some("group"))));
    }
    let qemu = median(theirs);
    println!(
        "Seconds, medians of {ROUNDS} starts of a guest with 1 vCPU and {GUEST_MIB} MiB. The first columns count from the"
    );
    println!("shim's first instruction, the last from the request to the container's process.");
    println!("                    built  entered    agent    ready  process");
    print_row("makes a template", &[making]);
    let own = print_row("cold", &cold);
    let template = print_row("from template", &restored);
    println!("QEMU microvm                       {qemu:7.3}");
    println!("cold / QEMU microvm                {:7.2}   goal 0.50", own / qemu);
    println!("from template / cold               {:7.3}   goal 0.1, and 0.12 s", template / own);
    let running = median(restored.iter().map(|one| one.running).collect());
    println!("from template, process / agent     {:7.2}   goal 2", running / template);
    let guests = Guests::start(&runtime, &sandboxes);
    crate::disk::run(&runtime, &guests);
    crate::tcp::run(&runtime, &guests);
    guests.end(&runtime);
    crate::crowd::run(&runtime, &sandboxes);
}

/// Prints the medians, and gives the one to the agent's answer.
fn print_row(name: &str, starts: &[Ours]) -> f64 {
    let of = |value: fn(&Ours) -> f64| median(starts.iter().map(value).collect());
    let agent = of(|one| one.agent);
    println!(
        "{name:16}  {:7.3}  {:7.3}  {agent:7.3}  {:7.3}  {:7.3}",
        of(|one| one.built),
        of(|one| one.entered),
        of(|one| one.ready),
        of(|one| one.running)
    );
    agent
}

async fn start_ours(sandboxes: &Sandboxes, group: Option<&str>) -> Ours {
    let sandbox = sandboxes.create("benchmark").await;
    let began = Instant::now();
    sandboxes.start(&sandbox, group).await;
    let running = began.elapsed().as_secs_f64();
    let SandboxStatus::Live(state) = sandbox.status().await else { panic!("the guest is gone") };
    sandbox.delete().await.unwrap();
    let since = |stage: Stage| (state.stages[&stage] - state.stages[&Stage::ShimStarted]) as f64 / 1e6;
    Ours {
        running,
        built: since(Stage::VmCreated),
        entered: since(Stage::GuestEntered),
        agent: since(Stage::AgentReady),
        ready: since(Stage::SandboxReady),
    }
}

async fn start_microvm(folder: &Path, cid: u32) -> f64 {
    let began = Instant::now();
    let mut qemu = microvm(folder, cid, &[]);
    let client = wait_for_agent(&mut qemu, folder, cid).await;
    let took = began.elapsed().as_secs_f64();
    drop(client);
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    took
}

/// Waits until the agent of a microvm answers.
pub async fn wait_for_agent(qemu: &mut Child, folder: &Path, cid: u32) -> AgentServiceClient {
    let began = Instant::now();
    loop {
        if let Some(client) = answer(cid).await {
            return client;
        }
        let ended = qemu.try_wait().unwrap();
        let said = || std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
        assert!(ended.is_none() && began.elapsed() < PATIENCE, "the microvm does not come up: {}", said());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Starts QEMU's microvm with `more` arguments.
pub fn microvm(folder: &Path, cid: u32, more: &[String]) -> Child {
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
        .args(["-m", &GUEST_MIB.to_string(), "-append", vmm::BASE_COMMAND_LINE])
        .arg("-kernel")
        .arg(devstack().join("vmlinux"))
        .arg("-initrd")
        .arg(devstack().join("guest.initrd"))
        .args(["-serial", &format!("file:{}/console", folder.display())])
        .args(["-device", &format!("vhost-vsock-device,guest-cid={cid}"), "-device", "virtio-rng-device"])
        .args(more)
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
