//! What this host has, from the kernel's files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use model::{NumaNode, NumaTopology};

/// An address for documentation (RFC 5737): only the route to it matters.
const SOMEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
const GIBIBYTE: u64 = 1 << 30;
/// A number that no CPU has.
const CPU_MAX: u32 = 8192;
/// Ticks a second in the kernel's files.
const USER_HZ: u64 = 100;

/// Memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What nothing uses.
    pub free: u64,
    /// What can be had without swapping.
    pub available: u64,
}

/// Reads `/proc/meminfo`.
pub fn memory() -> Memory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mebibytes = |name: &str| kibibytes(&text, name) / 1024;
    Memory {
        total: mebibytes("MemTotal:"),
        free: mebibytes("MemFree:"),
        available: mebibytes("MemAvailable:"),
    }
}

/// The number behind `name` in lines of `[words] name: number kB`.
fn kibibytes(text: &str, name: &str) -> u64 {
    let value =
        text.lines().find_map(|line| line.split_once(name)?.1.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0)
}

/// The address from which this host reaches others: nothing is sent to find it out.
pub fn my_ip() -> IpAddr {
    let routed = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SOMEWHERE)?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    routed().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// Number of CPUs that are online.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Processor time since the host started, of all CPUs and whatever it was spent on, idle time too.
pub fn cpu_time_ns() -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    all_ticks(&text).saturating_mul(SECOND / USER_HZ)
}

/// Sum of the first line's first seven numbers; those behind them are in them already.
fn all_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    line.split_whitespace().take(7).filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// Size in GiB of the file system that holds `path`.
pub fn disk_gib(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |stat| stat.blocks() * stat.fragment_size() / GIBIBYTE)
}

/// What is left in GiB of the file system that holds `path`.
pub fn free_disk_gib(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path)
        .map_or(0, |stat| stat.blocks_available() * stat.fragment_size() / GIBIBYTE)
}

/// The host's NUMA nodes; one that has all where the kernel names none.
pub fn numa_topology() -> NumaTopology {
    let entries = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok());
    let mut nodes: Vec<_> = numbers.map(numa_node).collect();
    nodes.sort_by_key(|node| node.id);
    if nodes.is_empty() {
        nodes.push(whole_host());
    }
    NumaTopology { nodes }
}

fn whole_host() -> NumaNode {
    let total = memory().total;
    NumaNode {
        id: 0,
        cpuset: (0..cpus()).collect(),
        pinned_cpus: Vec::new(),
        mem_total: total,
        mem_available: total,
    }
}

fn numa_node(id: u32) -> NumaNode {
    let folder = format!("/sys/devices/system/node/node{id}");
    let list = fs::read_to_string(format!("{folder}/cpulist")).unwrap_or_default();
    let memory = fs::read_to_string(format!("{folder}/meminfo")).unwrap_or_default();
    let total = kibibytes(&memory, "MemTotal:") / 1024;
    NumaNode {
        id,
        cpuset: parse_cpu_list(&list).unwrap_or_default(),
        pinned_cpus: Vec::new(),
        mem_total: total,
        mem_available: total,
    }
}

/// Reads a list such as `0-3,8`; none is what is no such list.
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        cpus.extend(first..=last.min(CPU_MAX));
    }
    Some(cpus)
}

/// The operating system's name, and the kernel's version.
pub fn system() -> (Option<String>, Option<String>) {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').into());
    let kernel = nix::sys::utsname::uname().ok().map(|names| names.release().to_string_lossy().into_owned());
    (name, kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_sizes_are_read() {
        assert_eq!(parse_cpu_list("0-2, 5\n").unwrap(), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("").unwrap(), Vec::<u32>::new());
        assert_eq!(parse_cpu_list("0-x"), None);
        assert_eq!(kibibytes("MemTotal:       2048 kB\n", "MemTotal:"), 2048);
        assert_eq!(kibibytes("Node 0 MemTotal:  4096 kB\n", "MemTotal:"), 4096);
        assert!(memory().total > 0 && cpus() > 0);
        let stat = "cpu  1 2 3 4 5 6 7 100 200\ncpu0 1 2 3 4 5 6 7 100 200\n";
        assert_eq!((all_ticks(stat), all_ticks("")), (28, 0));
    }
}
