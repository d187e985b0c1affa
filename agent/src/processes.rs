//! The processes of a container, from the kernel's files.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// Most processes that are listed.
const PROCESSES_MAX: usize = 2_000;
/// Longest command that is told, in characters.
const COMMAND_MAX: usize = 1024;
/// A tick of the kernel's files.
const TICK_MS: u64 = 10;
const PAGE_KIB: u64 = 4;

/// A process as the container sees it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pid: u32,
    /// 0 for a parent outside the container.
    ppid: u32,
    uid: u32,
    gid: u32,
    process_group: u32,
    session: u32,
    state: char,
    /// The terminal's device number, 0 for none.
    terminal: u32,
    priority: i32,
    nice: i32,
    threads: u32,
    processor: u32,
    /// Processor time in milliseconds.
    cpu_ms: u64,
    /// When it began, in seconds since the epoch.
    started: u64,
    virtual_kib: u64,
    resident_kib: u64,
    name: String,
    command: String,
}

/// The processes in a control group and in those below it, by their numbers.
pub fn list(cgroup: &Path) -> Result<Vec<Listed>> {
    let boot = boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default());
    let pids = pids(cgroup)?;
    let number = |pid: &u32| Some((*pid, own_number(&read(*pid, "status")?)?));
    let numbers: Vec<(u32, u32)> = pids.iter().filter_map(number).collect();
    let mut all: Vec<_> = numbers
        .iter()
        .filter_map(|(pid, _)| {
            let mut listed =
                parse(&read(*pid, "stat")?, &read(*pid, "status")?, &read(*pid, "cmdline")?, boot)?;
            let parent = numbers.iter().find(|(pid, _)| *pid == listed.ppid);
            listed.ppid = parent.map_or(0, |(_, own)| *own);
            Some(listed)
        })
        .collect();
    all.sort_by_key(|listed| listed.pid);
    Ok(all)
}

/// A container may have groups of its own below the one that it was put into.
fn pids(cgroup: &Path) -> Result<Vec<u32>> {
    let (mut pids, mut groups) = (Vec::new(), vec![PathBuf::from(cgroup)]);
    while let Some(group) = groups.pop()
        && pids.len() < PROCESSES_MAX
    {
        let path = group.join("cgroup.procs");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if group == cgroup => return Err(Error::io(format!("read {}", path.display()))(e)),
            // It went in the meantime, or takes threads only.
            Err(_) => continue,
        };
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let below = fs::read_dir(&group).into_iter().flatten().flatten();
        groups.extend(
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    pids.truncate(PROCESSES_MAX);
    Ok(pids)
}

/// None for a process that has ended in the meantime.
fn read(pid: u32, name: &str) -> Option<String> {
    fs::read(format!("/proc/{pid}/{name}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn boot_time(stat: &str) -> u64 {
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// The number in the innermost PID namespace.
fn own_number(status: &str) -> Option<u32> {
    innermost(status, "NSpid")
}

fn innermost(status: &str, name: &str) -> Option<u32> {
    status_field(status, name)?.split_whitespace().last()?.parse().ok()
}

/// The effective one of a process's identities.
fn effective(status: &str, name: &str) -> Option<u32> {
    status_field(status, name)?.split_whitespace().nth(1)?.parse().ok()
}

/// Reads proc(5)'s `stat`, `status` and `cmdline`. A program's name may hold anything, parentheses too.
fn parse(stat: &str, status: &str, cmdline: &str, boot: u64) -> Option<Listed> {
    let (start, rest) = stat.rsplit_once(')')?;
    let name = start.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let words: String = cmdline.trim_end_matches('\0').chars().take(COMMAND_MAX).collect();
    Some(Listed {
        pid: own_number(status)?,
        ppid: u32::try_from(number(1)?).ok()?,
        uid: effective(status, "Uid")?,
        gid: effective(status, "Gid")?,
        process_group: innermost(status, "NSpgid")?,
        session: innermost(status, "NSsid")?,
        state: fields.first()?.chars().next()?,
        terminal: u32::try_from(number(4)?).ok()?,
        priority: fields.get(15)?.parse().ok()?,
        nice: fields.get(16)?.parse().ok()?,
        threads: u32::try_from(number(17)?).ok()?,
        processor: u32::try_from(number(36)?).ok()?,
        cpu_ms: number(11)?.saturating_add(number(12)?).saturating_mul(TICK_MS),
        started: boot.saturating_add(number(19)?.saturating_mul(TICK_MS) / 1000),
        virtual_kib: number(20)? / 1024,
        resident_kib: number(21)?.saturating_mul(PAGE_KIB),
        name: name.to_owned(),
        command: if words.is_empty() { format!("[{name}]") } else { words.replace('\0', " ") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "77 (a) b (c) S 70 77 77 34816 77 4194560 9 0 0 0 25 50 0 0 20 5 3 0 1234 2048000 100 1 2 3 4 5 6 7 8 9 10 11 12 13 17 6 0";
        let status = "Name:\ta\nUid:\t1000\t1001\t1000\t1000\nGid:\t100\t101\t100\t100\nNSpid:\t77\t9\n\
                      NSpgid:\t70\t8\nNSsid:\t60\t7\n";
        let listed = parse(stat, status, "sh\0-c\0sleep 5\0", 1000).unwrap();
        let expected = Listed {
            pid: 9,
            ppid: 70,
            uid: 1001,
            gid: 101,
            process_group: 8,
            session: 7,
            state: 'S',
            terminal: 34816,
            priority: 20,
            nice: 5,
            threads: 3,
            processor: 6,
            cpu_ms: 750,
            started: 1012,
            virtual_kib: 2000,
            resident_kib: 400,
            name: "a) b (c".into(),
            command: "sh -c sleep 5".into(),
        };
        assert_eq!(listed, expected);
        assert_eq!(parse(stat, status, "", 0).unwrap().command, "[a) b (c]");
        for bad in ["", "77", "77 (x", "77 (x) S 1"] {
            assert_eq!(parse(bad, status, "", 0), None, "{bad}");
        }
    }
}
