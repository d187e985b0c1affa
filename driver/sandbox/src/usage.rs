//! What a sandbox takes of its host, as the host's kernel counts it.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;

/// Units of `/proc/PID/stat`, the same on each Linux for x86.
const TICKS_A_SECOND: f64 = 100.0;
const KIBIBYTE: u64 = 1024;
/// Places of the processor times in `/proc/PID/stat`, counted from the field after the name.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;

/// What the shim and its guest have taken.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds that vCPUs ran.
    pub vcpu_seconds: f64,
    /// Seconds that the shim's other threads ran: devices, agent's calls.
    pub vmm_seconds: f64,
    /// Bytes of memory in use, the guest's included.
    pub resident_bytes: u64,
    /// Bytes of them that others use too: what the guest never wrote of its template, and programs.
    pub shared_bytes: u64,
}

impl Usage {
    /// Reads what the process has taken; none if it is gone.
    pub(crate) fn of(process: Pid) -> Option<Self> {
        let folder = Path::new("/proc").join(process.to_string());
        let mut usage = memory(&fs::read_to_string(folder.join("smaps_rollup")).ok()?);
        for task in fs::read_dir(folder.join("task")).ok()? {
            let Ok(stat) = fs::read_to_string(task.ok()?.path().join("stat")) else { continue };
            let Some((name, seconds)) = processor_time(&stat) else { continue };
            match name.starts_with("vcpu") {
                true => usage.vcpu_seconds += seconds,
                false => usage.vmm_seconds += seconds,
            }
        }
        Some(usage)
    }
}

fn memory(rollup: &str) -> Usage {
    let bytes = |names: &[&str]| {
        let lines = rollup.lines().filter_map(|line| line.split_once(':'));
        let found = lines.filter(|(name, _)| names.contains(name));
        found.filter_map(|(_, size)| size.trim().strip_suffix(" kB")?.parse::<u64>().ok()).sum::<u64>()
            * KIBIBYTE
    };
    Usage {
        resident_bytes: bytes(&["Rss"]),
        shared_bytes: bytes(&["Shared_Clean", "Shared_Dirty"]),
        ..Usage::default()
    }
}

/// A thread's name and the seconds that it ran. Names may hold anything, brackets too.
fn processor_time(stat: &str) -> Option<(&str, f64)> {
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<_> = after.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((name, (ticks(USER_TIME)? + ticks(SYSTEM_TIME)?) / TICKS_A_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let rollup =
            "00400000-7ffd [rollup]\nRss:  61440 kB\nPss: 1 kB\nShared_Clean: 1024 kB\nShared_Dirty: 1 kB\n";
        let usage = memory(rollup);
        assert_eq!((usage.resident_bytes, usage.shared_bytes), (60 << 20, (1 << 20) + 1024));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 9";
        assert_eq!(processor_time(stat), Some(("a) b", 2.0)));
        assert_eq!(processor_time("7 (x) S"), None);
    }

    #[test]
    fn a_process_has_a_usage_until_it_is_gone() {
        let own = Usage::of(Pid::this()).unwrap();
        assert!(own.resident_bytes > own.shared_bytes && own.vcpu_seconds == 0.0);
        assert_eq!(Usage::of(Pid::from_raw(i32::MAX)), None);
    }
}
