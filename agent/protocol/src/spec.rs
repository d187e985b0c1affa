//! The OCI runtime specification to and from its wire form. What the wire form cannot say is not said.

use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxResources, Mount, PosixRlimit, Process, Spec, User,
};
use protobuf::MessageField;
use serde_json::{Value, json};

use crate::messages as wire;

/// A wire message that is no valid specification.
#[derive(Debug, thiserror::Error)]
#[error("the container's specification is not valid: {0}")]
pub struct SpecError(#[from] serde_json::Error);

/// The wire form of `spec`.
pub fn spec_to_wire(spec: &Spec) -> wire::Spec {
    wire::Spec {
        Version: spec.version().clone(),
        Process: spec.process().as_ref().map(process_to_wire).into(),
        Root: spec.root().as_ref().map(root_to_wire).into(),
        Hostname: spec.hostname().clone().unwrap_or_default(),
        Mounts: spec.mounts().iter().flatten().map(mount_to_wire).collect(),
        Annotations: spec.annotations().clone().unwrap_or_default(),
        Linux: spec.linux().as_ref().map(linux_to_wire).into(),
        ..Default::default()
    }
}

/// The wire form of `process`.
pub fn process_to_wire(process: &Process) -> wire::Process {
    wire::Process {
        Terminal: process.terminal().unwrap_or(false),
        User: MessageField::some(user_to_wire(process.user())),
        Args: process.args().clone().unwrap_or_default(),
        Env: process.env().clone().unwrap_or_default(),
        Cwd: process.cwd().to_string_lossy().into_owned(),
        Capabilities: process.capabilities().as_ref().map(capabilities_to_wire).into(),
        Rlimits: process.rlimits().iter().flatten().map(rlimit_to_wire).collect(),
        NoNewPrivileges: process.no_new_privileges().unwrap_or(false),
        OOMScoreAdj: i64::from(process.oom_score_adj().unwrap_or(0)),
        ..Default::default()
    }
}

fn root_to_wire(root: &oci_spec::runtime::Root) -> wire::Root {
    wire::Root {
        Path: root.path().to_string_lossy().into_owned(),
        Readonly: root.readonly().unwrap_or(false),
        ..Default::default()
    }
}

fn user_to_wire(user: &User) -> wire::User {
    wire::User {
        UID: user.uid(),
        GID: user.gid(),
        AdditionalGids: user.additional_gids().clone().unwrap_or_default(),
        Username: user.username().clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn capabilities_to_wire(capabilities: &LinuxCapabilities) -> wire::LinuxCapabilities {
    let names = |set: &Option<Capabilities>| -> Vec<String> {
        let mut names: Vec<_> =
            set.iter().flatten().filter_map(|capability| json_string(&json!(capability))).collect();
        names.sort();
        names
    };
    wire::LinuxCapabilities {
        Bounding: names(capabilities.bounding()),
        Effective: names(capabilities.effective()),
        Inheritable: names(capabilities.inheritable()),
        Permitted: names(capabilities.permitted()),
        Ambient: names(capabilities.ambient()),
        ..Default::default()
    }
}

fn rlimit_to_wire(rlimit: &PosixRlimit) -> wire::POSIXRlimit {
    wire::POSIXRlimit {
        Type: json_string(&json!(rlimit.typ())).unwrap_or_default(),
        Hard: rlimit.hard(),
        Soft: rlimit.soft(),
        ..Default::default()
    }
}

fn mount_to_wire(mount: &Mount) -> wire::Mount {
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    };
    wire::Mount {
        destination: mount.destination().to_string_lossy().into_owned(),
        source: path(mount.source()),
        type_: mount.typ().clone().unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn linux_to_wire(linux: &Linux) -> wire::Linux {
    wire::Linux {
        Sysctl: linux.sysctl().clone().unwrap_or_default(),
        Resources: linux.resources().as_ref().map(resources_to_wire).into(),
        CgroupsPath: linux
            .cgroups_path()
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        Namespaces: linux.namespaces().iter().flatten().map(namespace_to_wire).collect(),
        Devices: linux.devices().iter().flatten().map(device_to_wire).collect(),
        RootfsPropagation: linux.rootfs_propagation().clone().unwrap_or_default(),
        MaskedPaths: linux.masked_paths().clone().unwrap_or_default(),
        ReadonlyPaths: linux.readonly_paths().clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn namespace_to_wire(namespace: &oci_spec::runtime::LinuxNamespace) -> wire::LinuxNamespace {
    wire::LinuxNamespace {
        Type: json_string(&json!(namespace.typ())).unwrap_or_default(),
        Path: namespace.path().as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
        ..Default::default()
    }
}

fn device_to_wire(device: &oci_spec::runtime::LinuxDevice) -> wire::LinuxDevice {
    wire::LinuxDevice {
        Path: device.path().to_string_lossy().into_owned(),
        Type: json_string(&json!(device.typ())).unwrap_or_default(),
        Major: device.major(),
        Minor: device.minor(),
        FileMode: device.file_mode().unwrap_or(0o666),
        UID: device.uid().unwrap_or(0),
        GID: device.gid().unwrap_or(0),
        ..Default::default()
    }
}

/// The wire form of `resources`.
pub fn resources_to_wire(resources: &LinuxResources) -> wire::LinuxResources {
    let devices = resources.devices().iter().flatten().map(|rule| wire::LinuxDeviceCgroup {
        Allow: rule.allow(),
        Type: rule.typ().and_then(|typ| json_string(&json!(typ))).unwrap_or_default(),
        Major: rule.major().unwrap_or(-1),
        Minor: rule.minor().unwrap_or(-1),
        Access: rule.access().clone().unwrap_or_default(),
        ..Default::default()
    });
    let memory = resources.memory().as_ref().map(|memory| wire::LinuxMemory {
        Limit: memory.limit().unwrap_or(0),
        Reservation: memory.reservation().unwrap_or(0),
        Swap: memory.swap().unwrap_or(0),
        ..Default::default()
    });
    let cpu = resources.cpu().as_ref().map(|cpu| wire::LinuxCPU {
        Shares: cpu.shares().unwrap_or(0),
        Quota: cpu.quota().unwrap_or(0),
        Period: cpu.period().unwrap_or(0),
        Cpus: cpu.cpus().clone().unwrap_or_default(),
        Mems: cpu.mems().clone().unwrap_or_default(),
        ..Default::default()
    });
    let pids =
        resources.pids().as_ref().map(|pids| wire::LinuxPids { Limit: pids.limit(), ..Default::default() });
    wire::LinuxResources {
        Devices: devices.collect(),
        Memory: memory.into(),
        CPU: cpu.into(),
        Pids: pids.into(),
        ..Default::default()
    }
}

fn json_string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The specification that `spec` says.
pub fn spec_from_wire(spec: &wire::Spec) -> Result<Spec, SpecError> {
    let value = json!({
        "ociVersion": spec.Version,
        "process": spec.Process.as_ref().map(process_json),
        "root": spec.Root.as_ref().map(|root| json!({ "path": root.Path, "readonly": root.Readonly })),
        "hostname": some_text(&spec.Hostname),
        "mounts": spec.Mounts.iter().map(mount_json).collect::<Vec<_>>(),
        "annotations": spec.Annotations,
        "linux": spec.Linux.as_ref().map(linux_json),
    });
    Ok(serde_json::from_value(value)?)
}

/// The resources that `resources` says.
pub fn resources_from_wire(resources: &wire::LinuxResources) -> Result<LinuxResources, SpecError> {
    Ok(serde_json::from_value(resources_json(resources))?)
}

/// The process that `process` says.
pub fn process_from_wire(process: &wire::Process) -> Result<Process, SpecError> {
    Ok(serde_json::from_value(process_json(process))?)
}

fn process_json(process: &wire::Process) -> Value {
    let user = process.User.get_or_default();
    let rlimits = process
        .Rlimits
        .iter()
        .map(|rlimit| json!({ "type": rlimit.Type, "hard": rlimit.Hard, "soft": rlimit.Soft }));
    json!({
        "terminal": process.Terminal,
        "user": {
            "uid": user.UID,
            "gid": user.GID,
            "additionalGids": user.AdditionalGids,
            "username": some_text(&user.Username),
        },
        "args": process.Args,
        "env": process.Env,
        "cwd": process.Cwd,
        "capabilities": process.Capabilities.as_ref().map(|sets| json!({
            "bounding": sets.Bounding,
            "effective": sets.Effective,
            "inheritable": sets.Inheritable,
            "permitted": sets.Permitted,
            "ambient": sets.Ambient,
        })),
        "rlimits": rlimits.collect::<Vec<_>>(),
        "noNewPrivileges": process.NoNewPrivileges,
        "oomScoreAdj": process.OOMScoreAdj,
    })
}

fn mount_json(mount: &wire::Mount) -> Value {
    json!({
        "destination": mount.destination,
        "source": some_text(&mount.source),
        "type": some_text(&mount.type_),
        "options": mount.options,
    })
}

fn linux_json(linux: &wire::Linux) -> Value {
    let namespaces = linux
        .Namespaces
        .iter()
        .map(|namespace| json!({ "type": namespace.Type, "path": some_text(&namespace.Path) }));
    let devices = linux.Devices.iter().map(|device| {
        json!({
            "path": device.Path,
            "type": device.Type,
            "major": device.Major,
            "minor": device.Minor,
            "fileMode": device.FileMode,
            "uid": device.UID,
            "gid": device.GID,
        })
    });
    json!({
        "sysctl": linux.Sysctl,
        "resources": linux.Resources.as_ref().map(resources_json),
        "cgroupsPath": some_text(&linux.CgroupsPath),
        "namespaces": namespaces.collect::<Vec<_>>(),
        "devices": devices.collect::<Vec<_>>(),
        "rootfsPropagation": some_text(&linux.RootfsPropagation),
        "maskedPaths": linux.MaskedPaths,
        "readonlyPaths": linux.ReadonlyPaths,
    })
}

fn resources_json(resources: &wire::LinuxResources) -> Value {
    let devices = resources.Devices.iter().map(|rule| {
        json!({
            "allow": rule.Allow,
            "type": some_text(&rule.Type),
            "major": (rule.Major >= 0).then_some(rule.Major),
            "minor": (rule.Minor >= 0).then_some(rule.Minor),
            "access": some_text(&rule.Access),
        })
    });
    json!({
        "devices": devices.collect::<Vec<_>>(),
        "memory": resources.Memory.as_ref().map(|memory| json!({
            "limit": some_number(memory.Limit),
            "reservation": some_number(memory.Reservation),
            "swap": some_number(memory.Swap),
        })),
        "cpu": resources.CPU.as_ref().map(|cpu| json!({
            "shares": some_number(cpu.Shares),
            "quota": some_number(cpu.Quota),
            "period": some_number(cpu.Period),
            "cpus": some_text(&cpu.Cpus),
            "mems": some_text(&cpu.Mems),
        })),
        "pids": resources.Pids.as_ref().map(|pids| json!({ "limit": pids.Limit })),
    })
}

fn some_text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn some_number<T: Default + PartialEq>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": true,
                "user": { "uid": 1, "gid": 2, "additionalGids": [3] },
                "args": ["sh", "-c", "true"],
                "env": ["PATH=/bin"],
                "cwd": "/srv",
                "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": [],
                    "permitted": ["CAP_CHOWN", "CAP_KILL"], "ambient": [] },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024 }],
                "noNewPrivileges": true,
                "oomScoreAdj": 5,
            },
            "root": { "path": "/rootfs", "readonly": true },
            "hostname": "web",
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }],
            "annotations": { "a": "b" },
            "linux": {
                "sysctl": { "net.ipv4.ip_forward": "0" },
                "resources": {
                    "devices": [{ "allow": false, "access": "rwm" },
                        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" }],
                    "memory": { "limit": 1048576 },
                    "cpu": { "quota": 50000, "period": 100000 },
                    "pids": { "limit": 10 },
                },
                "cgroupsPath": "/kata/x",
                "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/proc/1/ns/net" }],
                "devices": [{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438,
                    "uid": 0, "gid": 0 }],
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_specification_survives_the_wire() {
        let spec = spec();
        let back = spec_from_wire(&spec_to_wire(&spec)).unwrap();
        assert_eq!(back, spec);
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut wire = spec_to_wire(&spec());
        wire.Linux.as_mut().unwrap().Namespaces[0].Type = "moon".into();
        assert!(spec_from_wire(&wire).is_err());
        let mut wire = process_to_wire(spec().process().as_ref().unwrap());
        wire.Capabilities.as_mut().unwrap().Bounding.push("CAP_FLY".into());
        assert!(process_from_wire(&wire).is_err());
    }
}
