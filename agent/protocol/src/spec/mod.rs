//! The OCI runtime specification to and from its wire form. What the wire form cannot say is not said.

mod json;
mod linux;
mod resources;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde_json::Value;

use crate::messages as wire;
use json::{Json, message};

/// No specification, or none that the wire form can say.
#[derive(Debug, thiserror::Error)]
#[error("the container's specification is not valid: {0}")]
pub struct SpecError(#[from] serde_json::Error);

type Result<T> = std::result::Result<T, SpecError>;

/// The wire form of `spec`.
pub fn spec_to_wire(spec: &Spec) -> Result<wire::Spec> {
    to_wire(spec)
}

/// The wire form of `process`.
pub fn process_to_wire(process: &Process) -> Result<wire::Process> {
    to_wire(process)
}

/// The wire form of `resources`.
pub fn resources_to_wire(resources: &LinuxResources) -> Result<wire::LinuxResources> {
    to_wire(resources)
}

/// The specification that `spec` says.
pub fn spec_from_wire(spec: &wire::Spec) -> Result<Spec> {
    Ok(serde_json::from_value(spec.to_json())?)
}

/// The process that `process` says.
pub fn process_from_wire(process: &wire::Process) -> Result<Process> {
    Ok(serde_json::from_value(process.to_json())?)
}

/// The resources that `resources` says.
pub fn resources_from_wire(resources: &wire::LinuxResources) -> Result<LinuxResources> {
    Ok(serde_json::from_value(resources.to_json())?)
}

fn to_wire<T: Json>(value: &impl serde::Serialize) -> Result<T> {
    Ok(T::from_json(&serde_json::to_value(value)?))
}

message!(Spec {
    Version: always "ociVersion",
    Process: "process",
    Root: "root",
    Hostname: "hostname",
    Mounts: "mounts",
    Hooks: "hooks",
    Annotations: "annotations",
    Linux: "linux",
});

message!(Process {
    Terminal: "terminal",
    ConsoleSize: "consoleSize",
    User: always "user",
    Args: "args",
    Env: "env",
    Cwd: always "cwd",
    Capabilities: "capabilities",
    Rlimits: "rlimits",
    NoNewPrivileges: "noNewPrivileges",
    ApparmorProfile: "apparmorProfile",
    OOMScoreAdj: "oomScoreAdj",
    SelinuxLabel: "selinuxLabel",
});

message!(Box { Height: always "height", Width: always "width" });

message!(User { UID: always "uid", GID: always "gid", AdditionalGids: "additionalGids", Username: "username" });

// A set that is not said would be left as it is.
message!(LinuxCapabilities {
    Bounding: always "bounding",
    Effective: always "effective",
    Inheritable: always "inheritable",
    Permitted: always "permitted",
    Ambient: always "ambient",
});

message!(POSIXRlimit { Type: always "type", Hard: always "hard", Soft: always "soft" });

message!(Root { Path: always "path", Readonly: "readonly" });

message!(Mount { destination: always "destination", source: "source", type_: "type", options: "options" });

message!(Hooks {
    Prestart: "prestart",
    Poststart: "poststart",
    Poststop: "poststop",
    CreateRuntime: "createRuntime",
    CreateContainer: "createContainer",
    StartContainer: "startContainer",
});

message!(Hook { Path: always "path", Args: "args", Env: "env", Timeout: "timeout" });

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

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
                "consoleSize": { "height": 24, "width": 80 },
                "apparmorProfile": "a",
                "selinuxLabel": "s",
            },
            "root": { "path": "/rootfs", "readonly": true },
            "hostname": "web",
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }],
            "hooks": {
                "prestart": [{ "path": "/1", "args": ["1"], "env": ["A=1"], "timeout": 1 }],
                "createRuntime": [{ "path": "/2" }],
                "createContainer": [{ "path": "/3" }],
                "startContainer": [{ "path": "/4" }],
                "poststart": [{ "path": "/5" }],
                "poststop": [{ "path": "/6" }],
            },
            "annotations": { "a": "b" },
            "linux": {
                "sysctl": { "net.ipv4.ip_forward": "0" },
                "resources": {
                    "devices": [{ "allow": false, "access": "rwm" },
                        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" }],
                    "memory": { "limit": 1048576, "reservation": 1, "swap": -1, "kernel": 2, "kernelTCP": 3,
                        "swappiness": 4, "disableOOMKiller": true },
                    "cpu": { "shares": 1, "quota": 50000, "period": 100000, "realtimeRuntime": 2,
                        "realtimePeriod": 3, "cpus": "0-1", "mems": "0" },
                    "pids": { "limit": 0 },
                    "blockIO": { "weight": 10, "leafWeight": 11,
                        "weightDevice": [{ "major": 8, "minor": 0, "weight": 12, "leafWeight": 13 }],
                        "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1 }],
                        "throttleWriteBpsDevice": [{ "major": 8, "minor": 0, "rate": 2 }],
                        "throttleReadIOPSDevice": [{ "major": 8, "minor": 0, "rate": 3 }],
                        "throttleWriteIOPSDevice": [{ "major": 8, "minor": 0, "rate": 4 }] },
                    "hugepageLimits": [{ "pageSize": "2MB", "limit": 9 }],
                },
                "cgroupsPath": "/kata/x",
                "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/proc/1/ns/net" }],
                "devices": [{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438,
                    "uid": 0, "gid": 0 }],
                "uidMappings": [{ "hostID": 1000, "containerID": 0, "size": 10 }],
                "gidMappings": [{ "hostID": 2000, "containerID": 0, "size": 10 }],
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "architectures": ["SCMP_ARCH_X86_64"],
                    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                    "syscalls": [
                        { "names": ["read"], "action": "SCMP_ACT_ALLOW" },
                        { "names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0,
                            "args": [{ "index": 0, "value": 0, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" }] },
                    ],
                },
                "rootfsPropagation": "slave",
                "mountLabel": "m",
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_specification_survives_the_wire() {
        let spec = spec();
        let back = spec_from_wire(&spec_to_wire(&spec).unwrap()).unwrap();
        assert_eq!(back, spec);
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut wire = spec_to_wire(&spec()).unwrap();
        wire.Linux.as_mut().unwrap().Namespaces[0].Type = "moon".into();
        assert!(spec_from_wire(&wire).is_err());
        let mut wire = process_to_wire(spec().process().as_ref().unwrap()).unwrap();
        wire.Capabilities.as_mut().unwrap().Bounding.push("CAP_FLY".into());
        assert!(process_from_wire(&wire).is_err());
    }

    #[test]
    fn what_is_not_said_has_the_meaning_that_it_has_in_the_specification() {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "capabilities": {} },
            "linux": { "devices": [{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }],
                "resources": { "devices": [{ "allow": true }] } },
        }))
        .unwrap();
        let back = serde_json::to_value(spec_from_wire(&spec_to_wire(&spec).unwrap()).unwrap()).unwrap();
        assert_eq!(back["process"]["capabilities"]["bounding"], json!([]), "no set is left as it is");
        assert_eq!(back["linux"]["devices"][0]["fileMode"], 0o666);
        let rule = &back["linux"]["resources"]["devices"][0];
        assert_eq!((rule.get("major"), rule.get("minor"), rule.get("type")), (None, None, None));
    }
}
