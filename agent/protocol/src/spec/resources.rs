//! What a container may use.

use serde_json::Value;

use super::json::{Json, message};
use crate::messages as wire;

/// A device's number that is not said: all are meant.
const ALL: i64 = -1;

message!(LinuxResources {
    Devices: "devices",
    Memory: "memory",
    CPU: "cpu",
    Pids: "pids",
    BlockIO: "blockIO",
    HugepageLimits: "hugepageLimits",
});

message!(LinuxMemory {
    Limit: "limit",
    Reservation: "reservation",
    Swap: "swap",
    Kernel: "kernel",
    KernelTCP: "kernelTCP",
    Swappiness: "swappiness",
    DisableOOMKiller: "disableOOMKiller",
});

message!(LinuxCPU {
    Shares: "shares",
    Quota: "quota",
    Period: "period",
    RealtimeRuntime: "realtimeRuntime",
    RealtimePeriod: "realtimePeriod",
    Cpus: "cpus",
    Mems: "mems",
});

message!(LinuxPids { Limit: always "limit" });

message!(LinuxBlockIO {
    Weight: "weight",
    LeafWeight: "leafWeight",
    WeightDevice: "weightDevice",
    ThrottleReadBpsDevice: "throttleReadBpsDevice",
    ThrottleWriteBpsDevice: "throttleWriteBpsDevice",
    ThrottleReadIOPSDevice: "throttleReadIOPSDevice",
    ThrottleWriteIOPSDevice: "throttleWriteIOPSDevice",
});

message!(LinuxWeightDevice {
    Major: always "major",
    Minor: always "minor",
    Weight: "weight",
    LeafWeight: "leafWeight",
});

message!(LinuxThrottleDevice { Major: always "major", Minor: always "minor", Rate: always "rate" });

message!(LinuxHugepageLimit { Pagesize: always "pageSize", Limit: always "limit" });

impl Json for wire::LinuxDeviceCgroup {
    fn from_json(value: &Value) -> Self {
        let number = |key: &str| value.get(key).map_or(ALL, i64::from_json);
        Self {
            Allow: bool::from_json(&value["allow"]),
            Type: String::from_json(&value["type"]),
            Major: number("major"),
            Minor: number("minor"),
            Access: String::from_json(&value["access"]),
            ..Self::default()
        }
    }
    fn to_json(&self) -> Value {
        let mut rule = serde_json::Map::from_iter([("allow".to_owned(), self.Allow.into())]);
        let mut say = |key: &str, value: Value| rule.insert(key.to_owned(), value);
        for (key, number) in [("major", self.Major), ("minor", self.Minor)] {
            if number != ALL {
                say(key, number.into());
            }
        }
        for (key, text) in [("type", &self.Type), ("access", &self.Access)] {
            if !text.is_empty() {
                say(key, text.as_str().into());
            }
        }
        rule.into()
    }
    fn is_unsaid(&self) -> bool {
        false
    }
}
