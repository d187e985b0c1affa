//! What goes through a guest's disk, ours against QEMU's microvm with the same image and a disk made alike.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use agent_protocol::messages::{
    CloseStdinRequest, CreateContainerRequest, ExecProcessRequest, ReadStreamRequest, StartContainerRequest,
    Storage, WaitProcessRequest,
};
use agent_protocol::service::AgentServiceClient;
use agent_protocol::{OVERLAY_CREATE_DIRECTORY, process_to_wire, spec_to_wire};
use cloud_tests::sandboxes::{arguments, container};
use protobuf::MessageField;
use sandbox::{ContainerSpec, ContainerUser, Exec, Sandbox};
use serde_json::json;
use tokio::runtime::Runtime;
use ttrpc::context::{Context, with_duration};

use crate::machine::{microvm, wait_for_agent};
use crate::median;
use crate::sandboxes::{CONTAINER, CONTAINER_MIB, Sandboxes};

const ROUNDS: usize = 10;
const MEBIBYTES: usize = 64;
/// No answer for so long is none.
const PATIENCE: Duration = Duration::from_secs(120);
const CID: u32 = 90;
const PLACE: &str = "/run/kata-containers/containers/c";
const WRITE: &str = "time -f 'took %e' dd if=/dev/zero of=/x bs=1M count=64 conv=fsync 2>&1";
const READ: &str = "echo 3 >/proc/sys/vm/drop_caches; time -f 'took %e' dd if=/x of=/dev/null bs=1M 2>&1";

/// A guest with a container.
enum Guest {
    Ours(Box<Sandbox>),
    Theirs(AgentServiceClient),
}

pub fn run(runtime: &Runtime, sandboxes: &Sandboxes) {
    let ours = runtime.block_on(start_ours(sandboxes));
    let (mut qemu, theirs) = runtime.block_on(start_theirs(sandboxes));
    println!("MiB a second, medians of {ROUNDS} rounds of {MEBIBYTES} MiB, each guest in turn");
    println!("                     ours     QEMU    ratio   goal 0.9");
    for (name, script) in [("disk, write", WRITE), ("disk, read", READ)] {
        let mut both = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (guest, speeds) in [&ours, &theirs].into_iter().zip(&mut both) {
                speeds.push(runtime.block_on(guest.copy(script)));
            }
        }
        let [ours, theirs] = both.map(median);
        println!("{name:16} {ours:8.1} {theirs:8.1} {:8.2}", ours / theirs);
    }
    if let Guest::Ours(sandbox) = ours {
        runtime.block_on(sandbox.delete()).unwrap();
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
}

impl Guest {
    async fn script(&self, script: &str) -> String {
        let process =
            sandbox::process(&arguments(&["sh", "-c", script]), &["PATH=/bin".into()], Path::new("/"), false)
                .unwrap();
        match self {
            Guest::Ours(sandbox) => {
                let user = ContainerUser { user: "0".into(), group: String::new() };
                let exec = Exec { container: CONTAINER.into(), process: privileged(process), user };
                sandbox.exec(exec).await.unwrap().output
            }
            Guest::Theirs(agent) => run_process(agent, &privileged(process)).await,
        }
    }

    /// How fast a script copies, by the guest's clock.
    async fn copy(&self, script: &str) -> f64 {
        let said = self.script(script).await;
        let seconds = said.lines().find_map(|line| line.strip_prefix("took "));
        MEBIBYTES as f64 / seconds.unwrap_or_else(|| panic!("{said}")).parse::<f64>().unwrap()
    }
}

/// Only root may empty the guest's caches.
fn privileged(mut process: sandbox::Process) -> sandbox::Process {
    let all = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
    let sets = json!({ "bounding": all, "effective": all, "permitted": all });
    process.set_capabilities(serde_json::from_value(sets).unwrap());
    process
}

async fn start_ours(sandboxes: &Sandboxes) -> Guest {
    let sandbox = sandboxes.create("disk").await;
    sandboxes.bring_up(&sandbox, None).await;
    let spec = container(CONTAINER, &["sleep", "100000"], sandboxes.rootfs());
    sandbox.run(&ContainerSpec { privileged: true, memory_mib: CONTAINER_MIB, ..spec }).await.unwrap();
    Guest::Ours(Box::new(sandbox))
}

async fn start_theirs(sandboxes: &Sandboxes) -> (Child, Guest) {
    let disk = sandboxes.create("disk-of-the-peer").await.path().join(format!("writable-{CONTAINER}.ext4"));
    let drive = |id: &str, path: &Path, more: &str| {
        let drive = format!("id={id},file={},format=raw,if=none,aio=io_uring{more}", path.display());
        ["-drive".into(), drive, "-device".into(), format!("virtio-blk-device,drive={id}")]
    };
    let more = [drive("image", sandboxes.rootfs(), ",readonly=on"), drive("writable", &disk, "")].concat();
    let mut qemu = microvm(sandboxes.folder(), CID, &more);
    let agent = wait_for_agent(&mut qemu, sandboxes.folder(), CID).await;
    create_container(&agent).await;
    (qemu, Guest::Theirs(agent))
}

fn deadline() -> Context {
    with_duration(PATIENCE)
}

/// Which of QEMU's two disks comes first is its own affair.
async fn create_container(agent: &AgentServiceClient) {
    for (image, writable) in [("/dev/vda", "/dev/vdb"), ("/dev/vdb", "/dev/vda")] {
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sleep", "100000"], "env": ["PATH=/bin"], "cwd": "/" },
            "root": { "path": format!("{PLACE}/rootfs") },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "cgroupsPath": "/kata/c",
                "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }] },
        });
        let request = CreateContainerRequest {
            container_id: CONTAINER.into(),
            storages: storages(image, writable),
            OCI: MessageField::some(spec_to_wire(&serde_json::from_value(spec).unwrap()).unwrap()),
            ..Default::default()
        };
        if agent.create_container(deadline(), &request).await.is_ok() {
            let start = StartContainerRequest { container_id: CONTAINER.into(), ..Default::default() };
            agent.start_container(deadline(), &start).await.unwrap();
            return;
        }
    }
    panic!("the microvm's container cannot be made");
}

fn storages(image: &str, writable: &str) -> Vec<Storage> {
    let block = |source: &str, fstype: &str, option: &str, name: &str| Storage {
        driver: "mmioblk".into(),
        source: source.into(),
        fstype: fstype.into(),
        options: vec![option.into()],
        mount_point: format!("{PLACE}/{name}"),
        ..Default::default()
    };
    let upper = ["upper", "work"].map(|name| format!("{PLACE}/writable/{name}"));
    vec![
        block(image, "squashfs", "ro", "image"),
        block(writable, "ext4", "noatime", "writable"),
        Storage {
            driver: "overlayfs".into(),
            driver_options: upper.iter().map(|path| format!("{OVERLAY_CREATE_DIRECTORY}={path}")).collect(),
            source: "overlayfs".into(),
            fstype: "overlay".into(),
            options: vec![
                format!("lowerdir={PLACE}/image"),
                format!("upperdir={}", upper[0]),
                format!("workdir={}", upper[1]),
            ],
            mount_point: format!("{PLACE}/rootfs"),
            ..Default::default()
        },
    ]
}

async fn run_process(agent: &AgentServiceClient, process: &sandbox::Process) -> String {
    let exec_id = format!("exec-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let request = ExecProcessRequest {
        container_id: CONTAINER.into(),
        exec_id: exec_id.clone(),
        process: MessageField::some(process_to_wire(process).unwrap()),
        ..Default::default()
    };
    agent.exec_process(deadline(), &request).await.unwrap();
    let close =
        CloseStdinRequest { container_id: CONTAINER.into(), exec_id: exec_id.clone(), ..Default::default() };
    agent.close_stdin(deadline(), &close).await.unwrap();
    let read = ReadStreamRequest {
        container_id: CONTAINER.into(),
        exec_id: exec_id.clone(),
        len: 4096,
        ..Default::default()
    };
    let mut output = Vec::new();
    loop {
        let data = agent.read_stdout(deadline(), &read).await.unwrap().data;
        if data.is_empty() {
            break;
        }
        output.extend(data);
    }
    let wait = WaitProcessRequest { container_id: CONTAINER.into(), exec_id, ..Default::default() };
    agent.wait_process(deadline(), &wait).await.unwrap();
    String::from_utf8(output).unwrap()
}
