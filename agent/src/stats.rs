//! What a container uses, from its cgroup and from the guest's interfaces.

use std::fs;
use std::path::Path;

use agent_protocol::OOM_KILL;
use agent_protocol::messages::{
    BlkioStats, BlkioStatsEntry, CgroupStats, CpuStats, CpuUsage, MemoryData, MemoryStats, NetworkStats,
    PidsStats, StatsContainerResponse, ThrottlingData, VolumeCondition, VolumeStatsResponse, VolumeUsage,
    volume_usage,
};
use nix::sys::statvfs::statvfs;
use protobuf::MessageField;

use crate::error::{Error, Result};

const MICROSECOND: u64 = 1000;

/// Statistics of the container whose cgroup is at `cgroup`.
pub fn collect(cgroup: &Path) -> StatsContainerResponse {
    let cgroup_stats = CgroupStats {
        cpu_stats: MessageField::some(cpu(&read(&cgroup.join("cpu.stat")))),
        memory_stats: MessageField::some(memory(cgroup)),
        pids_stats: MessageField::some(PidsStats {
            current: number(&cgroup.join("pids.current")),
            limit: number(&cgroup.join("pids.max")),
            ..Default::default()
        }),
        blkio_stats: MessageField::some(block(&read(&cgroup.join("io.stat")))),
        ..Default::default()
    };
    StatsContainerResponse {
        cgroup_stats: MessageField::some(cgroup_stats),
        network_stats: network(&read(Path::new("/proc/net/dev")), is_up),
        ..Default::default()
    }
}

/// How full the file system at `path` is.
pub fn volume(path: &Path) -> Result<VolumeStatsResponse> {
    let found = statvfs(path).map_err(Error::io(format!("look at {}", path.display())))?;
    let usage = |total: u64, free: u64, available: u64, unit: volume_usage::Unit| VolumeUsage {
        available,
        total,
        used: total.saturating_sub(free),
        unit: unit.into(),
        ..Default::default()
    };
    let size = found.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(size);
    Ok(VolumeStatsResponse {
        usage: vec![
            usage(
                bytes(found.blocks()),
                bytes(found.blocks_free()),
                bytes(found.blocks_available()),
                volume_usage::Unit::BYTES,
            ),
            usage(found.files(), found.files_free(), found.files_available(), volume_usage::Unit::INODES),
        ],
        volume_condition: MessageField::some(VolumeCondition::default()),
        ..Default::default()
    })
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number in a file; 0 stands for `max` and for a file that is not there.
fn number(path: &Path) -> u64 {
    read(path).trim().parse().unwrap_or(0)
}

/// The value behind `key` in lines of `key value`.
fn keyed(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn cpu(stat: &str) -> CpuStats {
    CpuStats {
        cpu_usage: MessageField::some(CpuUsage {
            total_usage: keyed(stat, "usage_usec") * MICROSECOND,
            usage_in_kernelmode: keyed(stat, "system_usec") * MICROSECOND,
            usage_in_usermode: keyed(stat, "user_usec") * MICROSECOND,
            ..Default::default()
        }),
        throttling_data: MessageField::some(ThrottlingData {
            periods: keyed(stat, "nr_periods"),
            throttled_periods: keyed(stat, "nr_throttled"),
            throttled_time: keyed(stat, "throttled_usec") * MICROSECOND,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn memory(cgroup: &Path) -> MemoryStats {
    let stat = read(&cgroup.join("memory.stat"));
    let events = read(&cgroup.join("memory.events"));
    let counters = stat.lines().filter_map(|line| line.split_once(' '));
    let counters = counters.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
    MemoryStats {
        cache: keyed(&stat, "file"),
        stats: counters.chain([(OOM_KILL.to_owned(), keyed(&events, OOM_KILL))]).collect(),
        usage: MessageField::some(MemoryData {
            usage: number(&cgroup.join("memory.current")),
            max_usage: number(&cgroup.join("memory.peak")),
            failcnt: keyed(&events, "oom"),
            limit: number(&cgroup.join("memory.max")),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn block(stat: &str) -> BlkioStats {
    let mut entries = Vec::new();
    for line in stat.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, op) in [("rbytes=", "Read"), ("wbytes=", "Write")] {
            let value = words.clone().find_map(|word| word.strip_prefix(key)?.parse().ok()).unwrap_or(0);
            entries.push(BlkioStatsEntry { major, minor, op: op.into(), value, ..Default::default() });
        }
    }
    BlkioStats { io_service_bytes_recursive: entries, ..Default::default() }
}

/// Whether an interface is in use: slots for more are there, and down.
fn is_up(interface: &str) -> bool {
    const IFF_UP: u32 = 1;
    let flags = read(&Path::new("/sys/class/net").join(interface).join("flags"));
    let flags = flags.trim().strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    flags.is_some_and(|flags| flags & IFF_UP != 0)
}

fn network(devices: &str, is_up: impl Fn(&str) -> bool) -> Vec<NetworkStats> {
    let lines = devices.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.filter(|(name, _)| is_up(name.trim()));
    lines
        .filter_map(|(name, counters)| {
            let values: Vec<u64> =
                counters.split_whitespace().map_while(|value| value.parse().ok()).collect();
            let [
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
                ..,
            ] = values[..]
            else {
                return None;
            };
            Some(NetworkStats {
                name: name.trim().to_owned(),
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
                ..Default::default()
            })
        })
        .filter(|stats| stats.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read() {
        let stats = cpu("usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 0\n");
        let usage = stats.cpu_usage.unwrap();
        assert_eq!((usage.total_usage, usage.usage_in_usermode), (1_500_000, 1_000_000));
        let entries = block("254:0 rbytes=4096 wbytes=0 rios=1\nnonsense\n").io_service_bytes_recursive;
        assert_eq!(
            entries.iter().map(|e| (e.major, e.op.as_str(), e.value)).collect::<Vec<_>>(),
            [(254, "Read", 4096), (254, "Write", 0)]
        );
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 0 0 0 0 0 0 20 3 0 0 0 0 0 0\n  eth1: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        let interfaces = network(dev, |name| name != "eth1");
        assert_eq!(interfaces.len(), 1);
        assert_eq!(
            (interfaces[0].name.as_str(), interfaces[0].rx_bytes, interfaces[0].tx_packets),
            ("eth0", 10, 3)
        );
    }
}
