//! Two guests to be compared: ours, and QEMU's microvm with the same image, a disk made alike, and a tap of its own.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use agent_protocol::messages::{
    CloseStdinRequest, CreateContainerRequest, ExecProcessRequest, IPAddress, Interface, ReadStreamRequest,
    StartContainerRequest, Storage, UpdateInterfaceRequest, WaitProcessRequest,
};
use agent_protocol::service::AgentServiceClient;
use agent_protocol::{OVERLAY_CREATE_DIRECTORY, process_to_wire, spec_to_wire};
use cloud_tests::sandboxes::{arguments, container, shell};
use protobuf::MessageField;
use sandbox::{ContainerSpec, ContainerUser, Exec, GuestNetwork, Nic, NicAddress, RateLimit, Sandbox};
use serde_json::json;
use tokio::runtime::Runtime;
use ttrpc::context::{Context, with_duration};

use crate::machine::{microvm, wait_for_agent};
use crate::sandboxes::{CONTAINER, CONTAINER_MIB, Sandboxes};

/// No answer for so long is none.
const PATIENCE: Duration = Duration::from_secs(120);
const CID: u32 = 90;
const PLACE: &str = "/run/kata-containers/containers/c";

/// A guest with a container.
pub enum Guest {
    Ours(Box<Sandbox>),
    Theirs { agent: AgentServiceClient, qemu: Child },
}

/// Both guests, ours first.
pub struct Guests([(Guest, Tap); 2]);

/// An interface of the host at whose other end a guest is.
pub struct Tap(u8);

impl Guests {
    pub fn start(runtime: &Runtime, sandboxes: &Sandboxes) -> Self {
        let taps = [71, 72].map(Tap);
        taps.iter().for_each(Tap::make);
        let ours = runtime.block_on(start_ours(sandboxes, &taps[0]));
        let theirs = runtime.block_on(start_theirs(sandboxes, &taps[1]));
        let [our_tap, their_tap] = taps;
        Self([(ours, our_tap), (theirs, their_tap)])
    }

    /// Does something with each.
    pub fn each<T>(&self, act: impl Fn(&Guest) -> T) {
        for (guest, _) in &self.0 {
            act(guest);
        }
    }

    /// Measures each in turn, and gives what was measured of ours and of theirs.
    pub fn compare(&self, rounds: usize, measure: impl Fn(&Guest, &Tap) -> f64) -> [Vec<f64>; 2] {
        let mut both = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for ((guest, tap), measured) in self.0.iter().zip(&mut both) {
                measured.push(measure(guest, tap));
            }
        }
        both
    }

    pub fn end(self, runtime: &Runtime) {
        for (guest, tap) in self.0 {
            match guest {
                Guest::Ours(sandbox) => runtime.block_on(sandbox.delete()).unwrap(),
                Guest::Theirs { mut qemu, .. } => {
                    qemu.kill().unwrap();
                    qemu.wait().unwrap();
                }
            }
            tap.remove();
        }
    }
}

impl Tap {
    /// The host's address at it.
    pub fn address(&self) -> String {
        format!("198.18.{}.1", self.0)
    }

    /// The guest's address.
    pub fn guest_address(&self) -> String {
        format!("198.18.{}.2", self.0)
    }

    fn name(&self) -> String {
        format!("zkb{}", self.0)
    }

    fn mac(&self) -> String {
        format!("fa:16:3e:00:02:{}", self.0)
    }

    fn make(&self) {
        let (name, address) = (self.name(), self.address());
        let script = format!(
            "ip link delete {name} 2>/dev/null || true
             ip tuntap add dev {name} mode tap vnet_hdr; ip link set {name} up; ip address add {address}/24 dev {name}"
        );
        shell(&script, Path::new("/"));
    }

    fn remove(&self) {
        shell(&format!("ip link delete {}", self.name()), Path::new("/"));
    }
}

impl Guest {
    /// What a script says that runs in the guest's container.
    pub async fn script(&self, script: &str) -> String {
        let process =
            sandbox::process(&arguments(&["sh", "-c", script]), &["PATH=/bin".into()], Path::new("/"), false)
                .unwrap();
        match self {
            Guest::Ours(sandbox) => {
                let user = ContainerUser { user: "0".into(), group: String::new() };
                let exec = Exec {
                    container: CONTAINER.into(),
                    process: privileged(process),
                    user,
                    time_limit: None,
                };
                sandbox.exec(exec).await.unwrap().output
            }
            Guest::Theirs { agent, .. } => run_process(agent, &privileged(process)).await,
        }
    }
}

/// Only root may empty the guest's caches.
fn privileged(mut process: sandbox::Process) -> sandbox::Process {
    let all = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
    let sets = json!({ "bounding": all, "effective": all, "permitted": all });
    process.set_capabilities(serde_json::from_value(sets).unwrap());
    process
}

async fn start_ours(sandboxes: &Sandboxes, tap: &Tap) -> Guest {
    let sandbox = sandboxes.create("ours").await;
    sandboxes.bring_up(&sandbox, None).await;
    let spec = container(CONTAINER, &["sleep", "100000"], sandboxes.rootfs());
    sandbox.run(&ContainerSpec { privileged: true, memory_mib: CONTAINER_MIB, ..spec }).await.unwrap();
    let nic = Nic {
        tap: tap.name(),
        mac: tap.mac(),
        mtu: 1500,
        name: "eth0".into(),
        addresses: vec![NicAddress { ip: tap.guest_address().parse().unwrap(), prefix: 24 }],
        routes: Vec::new(),
    };
    sandbox.attach(&nic, RateLimit::default()).await.unwrap();
    sandbox
        .set_network(&GuestNetwork { nics: vec![nic], ..GuestNetwork::default() }, CONTAINER)
        .await
        .unwrap();
    Guest::Ours(Box::new(sandbox))
}

async fn start_theirs(sandboxes: &Sandboxes, tap: &Tap) -> Guest {
    let disk = sandboxes.create("theirs").await.path().join(format!("writable-{CONTAINER}.ext4"));
    let drive = |id: &str, path: &Path, more: &str| {
        let drive = format!("id={id},file={},format=raw,if=none,aio=io_uring{more}", path.display());
        ["-drive".into(), drive, "-device".into(), format!("virtio-blk-device,drive={id}")]
    };
    let netdev = format!("tap,id=nic,ifname={},script=no,downscript=no,vhost=on", tap.name());
    let nic = format!("virtio-net-device,netdev=nic,mac={}", tap.mac());
    let nic = ["-netdev".into(), netdev, "-device".into(), nic];
    let more =
        [drive("image", sandboxes.rootfs(), ",readonly=on"), drive("writable", &disk, ""), nic].concat();
    let mut qemu = microvm(sandboxes.folder(), CID, &more);
    let agent = wait_for_agent(&mut qemu, sandboxes.folder(), CID).await;
    create_container(&agent).await;
    let address = IPAddress { address: tap.guest_address(), mask: "24".into(), ..Default::default() };
    let interface = Interface {
        name: "eth0".into(),
        hwAddr: tap.mac(),
        mtu: 1500,
        IPAddresses: vec![address],
        ..Default::default()
    };
    let update = UpdateInterfaceRequest { interface: MessageField::some(interface), ..Default::default() };
    agent.update_interface(deadline(), &update).await.unwrap();
    Guest::Theirs { agent, qemu }
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
