//! CPUs of the host that a sandbox has to itself.

use std::fs;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// CPUs of one NUMA node, one for each vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuPinning {
    /// The CPUs: the first for the first vCPU, and so on.
    pub cpus: Vec<u32>,
    /// Their node, from which the memory comes too.
    pub node: u32,
}

impl CpuPinning {
    /// What the control group of the sandbox says.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        let cpus: Vec<String> = self.cpus.iter().map(u32::to_string).collect();
        [("cpuset.cpus", cpus.join(",")), ("cpuset.mems", self.node.to_string())]
    }

    /// Lets each vCPU's thread of a shim run on its own CPU only.
    pub(crate) fn apply(&self, shim: Pid) -> Result<()> {
        let tasks = format!("/proc/{shim}/task");
        let entries = fs::read_dir(&tasks).map_err(Error::io("read", &tasks))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &tasks))?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let vcpu = name.trim().strip_prefix("vcpu").and_then(|number| number.parse::<usize>().ok());
            let thread = entry.file_name().to_str().and_then(|number| number.parse().ok());
            let (Some(vcpu), Some(thread)) = (vcpu, thread) else { continue };
            let cpu =
                self.cpus.get(vcpu).copied().ok_or_else(|| Error::Pinning(vcpu, "no CPU is its".into()))?;
            let mut set = CpuSet::new();
            set.set(cpu as usize)
                .and_then(|()| sched_setaffinity(Pid::from_raw(thread), &set))
                .map_err(|e| Error::Pinning(vcpu, e.to_string()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn each_vcpu_has_its_cpu() {
        let pinning = CpuPinning { cpus: vec![1, 0], node: 0 };
        if thread::available_parallelism().map_or(1, usize::from) < 2 {
            return;
        }
        let (names, named) = mpsc::channel();
        let mut ends = Vec::new();
        for name in ["vcpu0", "vcpu1", "other"] {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let names = names.clone();
            thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    names.send((name, nix::unistd::gettid())).unwrap();
                    let _ = ended.recv();
                })
                .unwrap();
        }
        let threads: Vec<_> = (0..3).map(|_| named.recv().unwrap()).collect();
        pinning.apply(Pid::this()).unwrap();
        let allowed = |wanted: &str| {
            let (_, thread) = threads.iter().find(|(name, _)| *name == wanted).unwrap();
            let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!((allowed("vcpu0").as_str(), allowed("vcpu1").as_str()), ("1", "0"));
        assert_ne!(allowed("other"), "1");
        let few = CpuPinning { cpus: vec![0], node: 0 };
        assert!(few.apply(Pid::this()).unwrap_err().to_string().contains("vCPU 1"));
        assert_eq!(pinning.settings(), [("cpuset.cpus", "1,0".to_owned()), ("cpuset.mems", "0".to_owned())]);
    }
}
