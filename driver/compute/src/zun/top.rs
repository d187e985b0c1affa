//! `container_top`: the processes of a container, in the columns of ps(1).
//!
//! Docker runs the host's `ps` for it. Here the guest's agent lists the processes, with the numbers that they have in
//! their container, and the columns are made of that.

use model::Container;
use sandbox::ContainerProcess;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::require_running;
use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::executor::require_created;
use crate::record::sandbox_name;

const FULL: &str = "uid,pid,ppid,c,stime,tty,time,cmd";
const AUX: &str = "user,pid,pcpu,pmem,vsz,rss,tty,stat,start,bsdtime,command";
const EXTRA_FULL: &str = "uid,pid,ppid,c,sz,rss,psr,stime,tty,time,cmd";
const JOBS: &str = "pid,pgid,sid,tty,time,cmd";
const DAY: i64 = 86_400;
/// What ps(1) takes a process's priority from, to show a higher one as a larger number.
const PRIORITY_BASE: i32 = 39;
const PAGE_KIB: u64 = 4;

/// The processes of a container, in the columns that `arguments` of ps(1) ask for.
pub async fn top(engine: &HostEngine, row: &Container, arguments: &str) -> Result<Value> {
    require_created(row)?;
    let columns = columns(arguments)?;
    require_running(engine, row, "top").await?;
    let processes = engine.sandbox(row.uuid).processes(&sandbox_name(row.uuid)).await?;
    let main = engine.record(row.uuid)?.main_process().map(|main| main.container.memory_mib);
    let memory_kib = main.unwrap_or(0).saturating_mul(1024);
    let now = OffsetDateTime::now_utc();
    let values = |process: &ContainerProcess| {
        let view = View { process, now, memory_kib };
        columns.iter().map(|column| (column.value)(&view)).collect::<Vec<_>>()
    };
    let titles: Vec<_> = columns.iter().map(|column| column.title.as_str()).collect();
    Ok(json!({ "Titles": titles, "Processes": processes.iter().map(values).collect::<Vec<_>>() }))
}

/// A process, and what its shares are of.
struct View<'a> {
    process: &'a ContainerProcess,
    now: OffsetDateTime,
    memory_kib: u64,
}

#[derive(Clone)]
struct Column {
    title: String,
    value: Content,
}

/// The columns that arguments of ps(1) ask for: those of `-f`, `-F`, `-j`, `u` or any `-o`, which may come several times and name
/// titles (`pid=ID`). Which processes are listed is not theirs to say.
fn columns(arguments: &str) -> Result<Vec<Column>> {
    let refused = |word: &str| {
        let reason = format!(
            "{arguments:?}: {word:?} is none that is known here; there are -e, -f, -F, -j, aux and -o COLUMNS"
        );
        Error::invalid("ps_args", reason)
    };
    let (mut named, mut format) = (Vec::new(), FULL);
    let mut words = arguments.split_whitespace();
    while let Some(word) = words.next() {
        match word.trim_start_matches('-') {
            "None" if word == "None" => {}
            "e" | "A" | "ef" | "f" | "a" | "ax" | "x" => {}
            "aux" | "axu" | "u" | "auxww" | "auxw" => format = AUX,
            "w" | "ww" | "efww" | "efw" => {}
            "F" | "eF" => format = EXTRA_FULL,
            "j" | "ej" => format = JOBS,
            "o" | "eo" | "axo" | "ao" | "Ao" | "efo" | "format" => {
                named.extend(listed(words.next().ok_or_else(|| refused(word))?)?);
            }
            glued => match ["format=", "eo", "o"].iter().find_map(|option| glued.strip_prefix(option)) {
                Some(names) if !names.is_empty() => named.extend(listed(names)?),
                _ => return Err(refused(word)),
            },
        }
    }
    if named.is_empty() { listed(format) } else { Ok(named) }
}

fn listed(names: &str) -> Result<Vec<Column>> {
    names
        .split(',')
        .map(|given| {
            let (name, title) =
                given.split_once('=').map_or((given, None), |(name, title)| (name, Some(title)));
            let (default, value) = column(name)
                .ok_or_else(|| Error::invalid("ps_args", format!("ps has no column {name:?} here")))?;
            Ok(Column { title: title.unwrap_or(default).to_owned(), value })
        })
        .collect()
}

/// What is in a column.
type Content = fn(&View<'_>) -> String;

/// The title of a column, and what is in it.
fn column(name: &str) -> Option<(&'static str, Content)> {
    let column: (_, Content) = match name {
        "pid" => ("PID", |view| view.process.pid.to_string()),
        "ppid" => ("PPID", |view| view.process.ppid.to_string()),
        "uid" => ("UID", |view| user(view.process.uid)),
        "euid" => ("EUID", |view| view.process.uid.to_string()),
        "gid" | "group" => ("GID", |view| view.process.gid.to_string()),
        "egid" | "egroup" => ("EGID", |view| view.process.gid.to_string()),
        "pgid" => ("PGID", |view| view.process.process_group.to_string()),
        "pgrp" => ("PGRP", |view| view.process.process_group.to_string()),
        "sid" => ("SID", |view| view.process.session.to_string()),
        "sess" | "session" => ("SESS", |view| view.process.session.to_string()),
        "etime" => ("ELAPSED", |view| elapsed(view.age())),
        "etimes" => ("ELAPSED", |view| view.age().to_string()),
        "lstart" => ("STARTED", |view| view.long_start()),
        "pri" => ("PRI", |view| (PRIORITY_BASE - view.process.priority).to_string()),
        "priority" => ("PRIORITY", |view| view.process.priority.to_string()),
        "psr" => ("PSR", |view| view.process.processor.to_string()),
        "sz" => ("SZ", |view| (view.process.virtual_kib / PAGE_KIB).to_string()),
        "times" | "cputimes" => ("TIME", |view| (view.process.cpu_ms / 1000).to_string()),
        "user" | "euser" => ("USER", |view| user(view.process.uid)),
        "c" => ("C", |view| format!("{:.0}", view.cpu_percent())),
        "pcpu" | "%cpu" => ("%CPU", |view| format!("{:.1}", view.cpu_percent())),
        "pmem" | "%mem" => ("%MEM", |view| format!("{:.1}", view.memory_percent())),
        "vsz" | "vsize" => ("VSZ", |view| view.process.virtual_kib.to_string()),
        "rss" | "rssize" => ("RSS", |view| view.process.resident_kib.to_string()),
        "tty" | "tt" | "tname" => ("TTY", |view| terminal(view.process.terminal)),
        "stat" => ("STAT", |view| view.process.state.to_string()),
        "s" | "state" => ("S", |view| view.process.state.to_string()),
        "stime" => ("STIME", |view| view.start()),
        "start" | "bsdstart" => ("START", |view| view.start()),
        "time" | "cputime" => ("TIME", |view| long_time(view.process.cpu_ms / 1000)),
        "bsdtime" => ("TIME", |view| short_time(view.process.cpu_ms / 1000)),
        "nice" | "ni" => ("NI", |view| view.process.nice.to_string()),
        "nlwp" | "thcount" => ("NLWP", |view| view.process.threads.to_string()),
        "comm" | "ucmd" => ("COMMAND", |view| view.process.name.clone()),
        "cmd" => ("CMD", |view| view.process.command.clone()),
        "command" | "args" => ("COMMAND", |view| view.process.command.clone()),
        _ => return None,
    };
    Some(column)
}

impl View<'_> {
    fn age(&self) -> i64 {
        let started = i64::try_from(self.process.started).unwrap_or(i64::MAX);
        self.now.unix_timestamp().saturating_sub(started).max(0)
    }

    fn cpu_percent(&self) -> f64 {
        let milliseconds = self.age().max(1) as f64 * 1000.0;
        self.process.cpu_ms as f64 / milliseconds * 100.0
    }

    fn memory_percent(&self) -> f64 {
        self.process.resident_kib as f64 / self.memory_kib.max(1) as f64 * 100.0
    }

    fn started(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp(i64::try_from(self.process.started).ok()?).ok()
    }

    /// The time in C's form.
    fn long_start(&self) -> String {
        let format = format_description!(
            "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
        );
        self.started().and_then(|started| started.format(format).ok()).unwrap_or_else(|| "?".into())
    }

    /// The hour of one that began within a day, the day of others.
    fn start(&self) -> String {
        match self.started() {
            Some(started) if self.age() < DAY => format!("{:02}:{:02}", started.hour(), started.minute()),
            Some(started) => {
                let month: String = started.month().to_string().chars().take(3).collect();
                format!("{month}{:02}", started.day())
            }
            None => "?".into(),
        }
    }
}

/// Names of other users are the image's affair.
fn user(uid: u32) -> String {
    if uid == 0 { "root".into() } else { uid.to_string() }
}

/// A terminal of a container is one of its `/dev/pts`, the major number 136 and those after it.
fn terminal(device: u32) -> String {
    const PTS_MAJOR: u32 = 136;
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    if device != 0 && major >= PTS_MAJOR { format!("pts/{minor}") } else { "?".into() }
}

/// `[[DD-]hh:]mm:ss`, as ps(1) has it.
fn elapsed(seconds: i64) -> String {
    let (days, hours, rest) = (seconds / DAY, seconds / 3600 % 24, seconds % 3600);
    let (minutes, seconds) = (rest / 60, rest % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

fn long_time(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn short_time(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(arguments: &str) -> String {
        let process = ContainerProcess {
            pid: 7,
            ppid: 1,
            uid: 33,
            gid: 34,
            process_group: 6,
            session: 5,
            state: 'S',
            terminal: 0x8801,
            priority: 25,
            nice: 5,
            threads: 2,
            processor: 3,
            cpu_ms: 3_725_000,
            started: 1_000_000_000,
            virtual_kib: 4096,
            resident_kib: 512,
            name: "sh".into(),
            command: "sh -c x".into(),
        };
        let now = OffsetDateTime::from_unix_timestamp(1_000_007_450).unwrap();
        let view = View { process: &process, now, memory_kib: 1024 };
        let columns = columns(arguments).unwrap();
        let titles: Vec<_> = columns.iter().map(|column| column.title.clone()).collect();
        let values: Vec<_> = columns.iter().map(|column| (column.value)(&view)).collect();
        format!("{}\n{}", titles.join(" "), values.join(" "))
    }

    #[test]
    fn columns_are_those_of_ps() {
        let full = "UID PID PPID C STIME TTY TIME CMD\n33 7 1 50 01:46 pts/1 01:02:05 sh -c x";
        for arguments in ["", "None", "-ef"] {
            assert_eq!(rows(arguments), full, "{arguments}");
        }
        let aux = "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND\n33 7 50.0 50.0 4096 512 pts/1 S 01:46 62:05 sh -c x";
        assert_eq!(rows("aux"), aux);
        assert_eq!(rows("-o pid,comm,ni"), "PID COMMAND NI\n7 sh 5");
        assert_eq!(
            rows("--format pid,gid,pgid,sid,etime,etimes,pri,psr,sz"),
            "PID GID PGID SID ELAPSED ELAPSED PRI PSR SZ\n7 34 6 5 02:04:10 7450 14 3 1024"
        );
        assert_eq!(rows("-o lstart"), "STARTED\nSun Sep  9 01:46:40 2001");
        assert_eq!(rows("-j"), "PID PGID SID TTY TIME CMD\n7 6 5 pts/1 01:02:05 sh -c x");
        assert_eq!((elapsed(59), elapsed(90_061)), ("00:59".into(), "1-01:01:01".into()));
        for arguments in
            ["-e -o pid -o comm=NAME", "-eo pid,comm=NAME", "-opid,comm=NAME", "axo pid,comm=NAME"]
        {
            assert_eq!(rows(arguments), "PID NAME\n7 sh", "{arguments}");
        }
    }

    #[test]
    fn what_ps_would_do_otherwise_is_refused_by_name() {
        for (arguments, named) in [("-o pid,secret", "secret"), ("--help", "--help"), ("-p 1", "-p 1")] {
            let error = columns(arguments).err().unwrap().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
