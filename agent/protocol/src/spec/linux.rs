//! What only Linux has.

use serde_json::Value;

use super::json::{Json, message};
use crate::messages as wire;

const FILE_MODE: u32 = 0o666;

message!(Linux {
    UIDMappings: "uidMappings",
    GIDMappings: "gidMappings",
    Sysctl: "sysctl",
    Resources: "resources",
    CgroupsPath: "cgroupsPath",
    Namespaces: "namespaces",
    Devices: "devices",
    Seccomp: "seccomp",
    RootfsPropagation: "rootfsPropagation",
    MaskedPaths: "maskedPaths",
    ReadonlyPaths: "readonlyPaths",
    MountLabel: "mountLabel",
});

message!(LinuxIDMapping { HostID: "hostID", ContainerID: "containerID", Size: "size" });

message!(LinuxNamespace { Type: always "type", Path: "path" });

message!(LinuxSeccomp {
    DefaultAction: always "defaultAction",
    Architectures: "architectures",
    Flags: "flags",
    Syscalls: "syscalls",
});

message!(LinuxSeccompArg { Index: always "index", Value: always "value", ValueTwo: "valueTwo", Op: always "op" });

message!(LinuxSyscall {
    Names: always "names",
    Action: always "action",
    ErrnoRet: "errnoRet",
    Args: "args",
});

impl Json for Option<wire::linux_syscall::ErrnoRet> {
    fn from_json(value: &Value) -> Self {
        Some(wire::linux_syscall::ErrnoRet::Errnoret(u32::from_json(value)))
    }
    fn to_json(&self) -> Value {
        let Some(wire::linux_syscall::ErrnoRet::Errnoret(number)) = self else { return Value::Null };
        number.to_json()
    }
    fn is_unsaid(&self) -> bool {
        self.is_none()
    }
}

impl Json for wire::LinuxDevice {
    fn from_json(value: &Value) -> Self {
        Self {
            Path: String::from_json(&value["path"]),
            Type: String::from_json(&value["type"]),
            Major: i64::from_json(&value["major"]),
            Minor: i64::from_json(&value["minor"]),
            FileMode: value.get("fileMode").map_or(FILE_MODE, u32::from_json),
            UID: u32::from_json(&value["uid"]),
            GID: u32::from_json(&value["gid"]),
            ..Self::default()
        }
    }
    fn to_json(&self) -> Value {
        serde_json::json!({
            "path": self.Path,
            "type": self.Type,
            "major": self.Major,
            "minor": self.Minor,
            "fileMode": self.FileMode,
            "uid": self.UID,
            "gid": self.GID,
        })
    }
    fn is_unsaid(&self) -> bool {
        false
    }
}
