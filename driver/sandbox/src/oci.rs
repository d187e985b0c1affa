//! The OCI specification of a container in a sandbox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shim_control::{ContainerUser, CreateContainer, ProcessInput, RateLimit, Storage, StorageDriver};

use crate::error::{Error, Result};
use crate::guest_paths::{ContainerDisks, GuestPaths, beneath};
use crate::seccomp::SeccompRules;
use crate::size::{CpuLimit, Size};

const SANDBOX: &str = "/run/kata-containers/sandbox";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's default capabilities without MKNOD: a container has no use for devices of its sandbox.
const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Linux's other capabilities.
const PRIVILEGED_CAPABILITIES: [&str; 28] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_DAC_READ_SEARCH",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST",
    "CAP_PERFMON",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYSLOG",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container as whoever holds its record describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its identifier.
    pub id: String,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// The environment, `NAME=value`.
    pub environment: Vec<String>,
    /// The directory in which the program starts.
    pub directory: PathBuf,
    /// The user.
    pub user: ContainerUser,
    /// The host name.
    pub hostname: String,
    /// CPUs that it may use.
    pub cpus: f32,
    /// Memory that it may use, in MiB.
    pub memory_mib: u64,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether its input stays open.
    pub interactive: bool,
    /// The file system of its image, on this host.
    pub image: PathBuf,
    /// Directories that its image declares as volumes.
    pub volumes: Vec<PathBuf>,
    /// Volumes of its sandbox, and where it sees them.
    #[serde(default)]
    pub mounts: Vec<VolumeMount>,
    /// What it may move through each of its disks.
    pub disk_limit: RateLimit,
    /// What it shares with the other containers of its sandbox, beside the network.
    pub shares: Vec<SharedNamespace>,
    /// Whether it may do to the sandbox's guest all that root may, as Docker's privileged containers to their host.
    pub privileged: bool,
    /// What its OCI runtime specification has instead of what is made of the above: a JSON merge patch (RFC 7396).
    pub oci: Value,
}

/// A volume that a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// What the disk is called in the sandbox.
    pub volume: String,
    /// Where the container has its file system.
    pub destination: PathBuf,
}

/// A namespace that the containers of a sandbox may have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedNamespace {
    /// They see each other's processes.
    Pid,
    /// They can use each other's System V and POSIX message queues and semaphores.
    Ipc,
}

/// The environment with later entries in place of earlier ones, and a search path if there is none.
fn environment(entries: &[String]) -> Vec<String> {
    let mut merged: BTreeMap<&str, &str> = BTreeMap::new();
    let mut order = Vec::new();
    for entry in std::iter::once(DEFAULT_PATH).chain(entries.iter().map(String::as_str)) {
        let name = entry.split('=').next().unwrap_or(entry);
        if merged.insert(name, entry).is_none() {
            order.push(name);
        }
    }
    order.into_iter().filter_map(|name| merged.get(name)).map(|entry| (*entry).to_owned()).collect()
}

/// A process, with Docker's default rights.
pub fn process(
    arguments: &[String],
    entries: &[String],
    directory: &Path,
    terminal: bool,
) -> Result<Process> {
    let value = process_json(arguments, &environment(entries), directory, terminal);
    serde_json::from_value(value).map_err(|e| Error::Spec(e.to_string()))
}

fn process_json(arguments: &[String], environment: &[String], directory: &Path, terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": environment,
        "cwd": directory,
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1_048_576, "hard": 1_048_576 }],
        "noNewPrivileges": false,
    })
}

impl ContainerSpec {
    /// What the shim is asked to make.
    pub(crate) fn to_request(&self, disks: &ContainerDisks, bounds: &Bounds<'_>) -> Result<CreateContainer> {
        let paths = GuestPaths::of(&self.id);
        Ok(CreateContainer {
            id: self.id.clone(),
            spec: self.spec(&paths, bounds)?,
            user: self.user.clone(),
            storages: [paths.storages(disks), self.directories(&paths)].concat(),
            shares_pids: self.shares.contains(&SharedNamespace::Pid),
            input: if self.interactive { ProcessInput::Open } else { ProcessInput::Closed },
        })
    }

    fn spec(&self, paths: &GuestPaths, bounds: &Bounds<'_>) -> Result<Spec> {
        let environment = environment(&self.with_terminal_type());
        let process = process_json(&self.arguments, &environment, &self.directory, self.terminal);
        let namespaces: Vec<_> = self.namespaces().map(|kind| json!({ "type": kind })).collect();
        let mut value = json!({
            "ociVersion": "1.2.0",
            "process": process,
            "root": { "path": paths.rootfs, "readonly": false },
            "hostname": self.hostname,
            "mounts": mounts(if self.privileged { "rw" } else { "ro" }),
            "linux": {
                "cgroupsPath": format!("/kata/{}", self.id),
                "namespaces": namespaces,
                "maskedPaths": MASKED_PATHS,
                "readonlyPaths": READONLY_PATHS,
                "resources": Size { cpus: self.cpus, memory_mib: self.memory_mib }.resources(CpuLimit::Weight),
            },
        });
        if let Some(mounts) = value["mounts"].as_array_mut() {
            mounts.extend(self.volume_mounts(paths));
        }
        json_patch::merge(&mut value, &if self.privileged { privileges() } else { bounds.oci() });
        if !self.oci.is_null() {
            json_patch::merge(&mut value, &self.oci);
        }
        if !self.privileged && self.oci.pointer("/linux/seccomp").is_none() {
            value["linux"]["seccomp"] = bounds.seccomp(&value);
        }
        serde_json::from_value(value).map_err(|e| Error::Spec(e.to_string()))
    }

    /// A further process of the container, with its rights, its environment and its directory, as Docker's `exec` has it.
    pub fn process(&self, arguments: &[String], terminal: bool) -> Result<Process> {
        let with_its_terminal = Self { terminal, ..self.clone() };
        let mut process = with_its_terminal
            .spec(&GuestPaths::of(&self.id), &Bounds::default())?
            .process()
            .clone()
            .unwrap_or_default();
        process.set_args(Some(arguments.to_vec())).set_terminal(Some(terminal));
        Ok(process)
    }

    /// Directories that Docker makes where an image lacks them. What is in a volume's stays with the container's disk.
    fn directories(&self, paths: &GuestPaths) -> Vec<Storage> {
        let all = self.volumes.iter().chain([&self.directory]);
        let made = all.map(|path| Storage {
            driver: StorageDriver::Directory,
            fstype: String::new(),
            options: Vec::new(),
            mount_point: beneath(&paths.rootfs, path),
        });
        made.collect()
    }

    fn volume_mounts(&self, paths: &GuestPaths) -> impl Iterator<Item = Value> {
        let mount = |(number, mount): (usize, &VolumeMount)| {
            json!({
                "destination": mount.destination,
                "type": "bind",
                "source": paths.volume(number),
                "options": ["rbind", "rprivate"],
            })
        };
        self.mounts.iter().enumerate().map(mount)
    }

    /// Its own namespaces. The network's and, if it is shared, that of IPC are the guest's, and of PIDs the sandbox's.
    fn namespaces(&self) -> impl Iterator<Item = &'static str> {
        let own = |shared| !self.shares.contains(&shared);
        let pid = own(SharedNamespace::Pid).then_some("pid");
        let ipc = own(SharedNamespace::Ipc).then_some("ipc");
        pid.into_iter().chain(ipc).chain(["uts", "mount", "cgroup"])
    }

    fn with_terminal_type(&self) -> Vec<String> {
        let terminal = self.terminal.then(|| "TERM=xterm".to_owned());
        let hostname = format!("HOSTNAME={}", self.hostname);
        terminal.into_iter().chain([hostname]).chain(self.environment.iter().cloned()).collect()
    }
}

/// What a container may do to its guest that is not privileged.
#[derive(Default)]
pub(crate) struct Bounds<'a> {
    /// Which system calls it may make.
    pub seccomp: Option<&'a SeccompRules>,
    /// How many processes and threads it may have; 0 is no bound.
    pub pids_max: u64,
}

impl Bounds<'_> {
    /// Rules for the capabilities that a container comes to have.
    fn seccomp(&self, specification: &Value) -> Value {
        let Some(rules) = self.seccomp else { return Value::Null };
        let capabilities = specification.pointer("/process/capabilities/bounding").and_then(Value::as_array);
        let names: Vec<&str> = capabilities.into_iter().flatten().filter_map(Value::as_str).collect();
        rules.of(&names)
    }

    fn oci(&self) -> Value {
        let pids = if self.pids_max == 0 { Value::Null } else { json!({ "limit": self.pids_max }) };
        // Only the devices that each container has.
        let devices = json!([{ "allow": false, "access": "rwm" }]);
        json!({ "linux": { "resources": { "pids": pids, "devices": devices } } })
    }
}

/// What a privileged container has instead.
fn privileges() -> Value {
    let all = CAPABILITIES.iter().chain(&PRIVILEGED_CAPABILITIES).collect::<Vec<_>>();
    json!({
        "process": { "capabilities": { "bounding": all, "effective": all, "permitted": all } },
        "linux": {
            "maskedPaths": [],
            "readonlyPaths": [],
            "resources": { "devices": [{ "allow": true, "access": "rwm" }] },
        },
    })
}

/// `kernel` says how the kernel's own file systems are mounted.
fn mounts(kernel: &str) -> Value {
    let bind = |name: &str| {
        json!({
            "destination": format!("/etc/{name}"),
            "type": "bind",
            "source": format!("{SANDBOX}/{name}"),
            "options": ["rbind", "rprivate"],
        })
    };
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", kernel] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": ["nosuid", "noexec", "nodev", "relatime", kernel] },
        bind("hosts"),
        bind("hostname"),
        bind("resolv.conf"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            id: "c".into(),
            arguments: vec!["sh".into()],
            environment: vec!["A=1".into(), "A=2".into()],
            directory: "/".into(),
            user: ContainerUser::default(),
            hostname: "web".into(),
            cpus: 0.5,
            memory_mib: 128,
            terminal: true,
            interactive: false,
            image: "/image".into(),
            volumes: vec!["/data/../../x".into()],
            mounts: Vec::new(),
            disk_limit: RateLimit::default(),
            shares: Vec::new(),
            privileged: false,
            oci: Value::Null,
        }
    }

    fn request(spec: &ContainerSpec) -> CreateContainer {
        let disks = ContainerDisks {
            image: "/dev/vda".into(),
            writable: "/dev/vdb".into(),
            volumes: spec.mounts.iter().map(|_| "/dev/vdi".into()).collect(),
        };
        spec.to_request(&disks, &Bounds::default()).unwrap()
    }

    #[test]
    fn limits_and_environment_reach_the_specification() {
        let request = request(&spec());
        let value = serde_json::to_value(&request.spec).unwrap();
        assert_eq!(value["linux"]["resources"]["memory"]["limit"], 128 << 20);
        assert_eq!(value["linux"]["resources"]["cpu"]["quota"], -1, "its start is not held up");
        assert_eq!(value["process"]["env"], json!([DEFAULT_PATH, "TERM=xterm", "HOSTNAME=web", "A=2"]));
        assert_eq!(request.input, ProcessInput::Closed);
        let made: Vec<_> =
            request.storages[3..].iter().map(|storage| storage.mount_point.as_path()).collect();
        let rootfs = GuestPaths::of("c").rootfs;
        assert_eq!(made, [rootfs.join("x"), rootfs], "none is outside");
    }

    #[test]
    fn a_volume_is_mounted_from_its_disk_and_bound_to_its_destination() {
        let mounts = vec![VolumeMount { volume: "volume-1".into(), destination: "/data".into() }];
        let request = request(&ContainerSpec { mounts, ..spec() });
        let place = GuestPaths::of("c").volume(0);
        let storage = request.storages.iter().find(|storage| storage.mount_point == place).unwrap();
        assert_eq!(storage.driver, StorageDriver::Block("/dev/vdi".into()));
        let value = serde_json::to_value(&request.spec).unwrap();
        let mount = value["mounts"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (mount["destination"].as_str(), mount["source"].as_str()),
            (Some("/data"), place.to_str())
        );
    }

    #[test]
    fn a_container_may_not_make_devices() {
        let value = serde_json::to_value(request(&spec()).spec).unwrap();
        assert!(!value["process"]["capabilities"].to_string().contains("MKNOD"));
    }

    #[test]
    fn a_further_process_has_the_containers_rights_and_environment() {
        let more = |privileged| {
            let spec = ContainerSpec { privileged, ..spec() };
            serde_json::to_value(spec.process(&["id".into()], false).unwrap()).unwrap()
        };
        let plain = more(false);
        assert_eq!(
            (&plain["args"], &plain["env"]),
            (&json!(["id"]), &json!([DEFAULT_PATH, "HOSTNAME=web", "A=2"]))
        );
        let may =
            |process: &Value| process["capabilities"]["effective"].to_string().contains("CAP_NET_ADMIN");
        assert!(may(&more(true)) && !may(&plain));
    }

    #[test]
    fn what_is_shared_is_no_namespace_of_its_own() {
        let shares = vec![SharedNamespace::Pid, SharedNamespace::Ipc];
        let request = request(&ContainerSpec { shares, ..spec() });
        assert!(request.shares_pids);
        let namespaces = serde_json::to_value(&request.spec).unwrap()["linux"]["namespaces"].to_string();
        assert!(namespaces.contains("mount") && !namespaces.contains("pid") && !namespaces.contains("ipc"));
    }

    #[test]
    fn a_patch_has_the_last_word() {
        let oci = json!({ "root": { "readonly": true }, "linux": { "maskedPaths": null } });
        let value = serde_json::to_value(request(&ContainerSpec { oci, ..spec() }).spec).unwrap();
        assert_eq!(value["root"]["readonly"], true);
        assert_eq!(
            (value["linux"].get("maskedPaths"), value["process"]["args"][0].as_str()),
            (None, Some("sh"))
        );
        let oci = json!({ "process": { "args": 7 } });
        let disks =
            ContainerDisks { image: "/dev/vda".into(), writable: "/dev/vdb".into(), volumes: Vec::new() };
        let error =
            ContainerSpec { oci, ..spec() }.to_request(&disks, &Bounds::default()).unwrap_err().to_string();
        assert!(error.contains("the container's specification cannot be made"), "{error}");
    }
}
