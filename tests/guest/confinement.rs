//! What whoever breaks out of a guest into its shim finds there, tried from each of the shim's threads.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sandbox::Sandbox;

use crate::fixture::Fixture;

const LONG: [&str; 2] = ["sleep", "1000"];
const NAMESPACES: [&str; 7] = ["mnt", "pid", "ipc", "uts", "net", "user", "cgroup"];
/// The `syscall` instruction, and its size.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const INSTRUCTION: u64 = 2;
/// Below the stack pointer, out of the way of what a function keeps there.
const SCRATCH: u64 = 4096;

/// Something that an attacker would try.
struct Attempt {
    what: &'static str,
    call: c_long,
    /// Arguments; a text's address stands for the text.
    arguments: [Argument; 3],
}

#[derive(Clone, Copy)]
enum Argument {
    Number(i64),
    Text(&'static str),
}

use Argument::{Number, Text};

const NONE: Argument = Number(0);

/// More than the parameters of an io_uring, all zero.
const ZEROS: &str = concat!(
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
);

const ATTEMPTS: [Attempt; 8] = [
    Attempt {
        what: "open a file of the host",
        call: libc::SYS_openat,
        arguments: [Number(libc::AT_FDCWD as i64), Text("/etc/passwd"), NONE],
    },
    Attempt { what: "run a program", call: libc::SYS_execve, arguments: [Text("/bin/sh"), NONE, NONE] },
    Attempt {
        what: "trace a neighbour",
        call: libc::SYS_ptrace,
        arguments: [Number(libc::PTRACE_ATTACH as i64), Number(1), NONE],
    },
    Attempt {
        what: "open a raw socket",
        call: libc::SYS_socket,
        arguments: [Number(libc::AF_PACKET as i64), Number(libc::SOCK_RAW as i64), NONE],
    },
    Attempt {
        what: "make a virtual machine",
        call: libc::SYS_ioctl,
        arguments: [Number(3), Number(0xae01), NONE],
    },
    Attempt {
        what: "make an io_uring",
        call: libc::SYS_io_uring_setup,
        arguments: [Number(8), Text(ZEROS), NONE],
    },
    Attempt {
        what: "make a process",
        call: libc::SYS_clone,
        arguments: [Number(libc::SIGCHLD as i64), NONE, NONE],
    },
    Attempt {
        what: "make a user namespace",
        call: libc::SYS_unshare,
        arguments: [Number(0x1000_0000), NONE, NONE],
    },
];

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Killed,
    Refused(Errno),
    Succeeded(i64),
}

fn threads(sandbox: &Sandbox) -> Vec<(String, Pid)> {
    let tasks = PathBuf::from(format!("/proc/{}/task", sandbox.shim_pid().unwrap()));
    let mut threads: Vec<_> = fs::read_dir(tasks)
        .unwrap()
        .map(|task| {
            let task = task.unwrap();
            let name = fs::read_to_string(task.path().join("comm")).unwrap().trim().to_owned();
            (name, Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap()))
        })
        // Threads of the kernel that work for an io_uring run no code of ours.
        .filter(|(name, _)| !name.starts_with("iou-"))
        .collect();
    threads.sort();
    threads.dedup_by(|a, b| a.0 == b.0);
    threads
}

/// Stops a thread while it waits in the kernel, so that the instruction before is what took it there.
fn stop_at_a_call(thread: Pid) -> libc::user_regs_struct {
    for _ in 0..1000 {
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        let registers = ptrace::getregs(thread).unwrap();
        let before = ptrace::read(thread, (registers.rip - INSTRUCTION) as *mut _).unwrap();
        if before.to_le_bytes()[..2] == SYSCALL {
            return registers;
        }
        ptrace::cont(thread, None).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{thread} never waits in the kernel");
}

/// Makes a thread call the kernel as if its code were an attacker's.
fn attempt(thread: Pid, attempt: &Attempt) -> Outcome {
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    let mut registers = stop_at_a_call(thread);
    let scratch = (registers.rsp - SCRATCH) & !7;
    let value = |argument: Argument| match argument {
        Number(number) => number as u64,
        Text(text) => {
            let bytes = [text.as_bytes(), &[0; 8]].concat();
            for (n, word) in bytes.chunks_exact(8).enumerate() {
                let word = i64::from_ne_bytes(word.try_into().unwrap());
                ptrace::write(thread, (scratch + n as u64 * 8) as *mut _, word).unwrap();
            }
            scratch
        }
    };
    let [first, second, third] = attempt.arguments.map(value);
    registers.rip -= INSTRUCTION;
    registers.orig_rax = u64::MAX;
    registers.rax = attempt.call as u64;
    (registers.rdi, registers.rsi, registers.rdx, registers.r10) = (first, second, third, 0);
    ptrace::setregs(thread, registers).unwrap();
    ptrace::step(thread, None).unwrap();
    match waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap() {
        WaitStatus::Signaled(_, Signal::SIGSYS, _) => Outcome::Killed,
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {
            let result = ptrace::getregs(thread).unwrap().rax as i64;
            let refused = i32::try_from(-result).ok().filter(|code| *code > 0);
            refused.map_or(Outcome::Succeeded(result), |code| Outcome::Refused(Errno::from_raw(code)))
        }
        // The first thread is told of as ended when all are.
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Outcome::Killed,
        other => panic!("{}: {other:?}", attempt.what),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn an_attacker_in_any_thread_of_a_shim_gets_nowhere() {
    let fixture = Fixture::new();
    let start = async || {
        let sandbox = fixture.host().sandbox("c");
        sandbox.create().unwrap();
        sandbox.start(&fixture.spec_of_group("attacked")).await.unwrap();
        fixture.run(&sandbox, "c", &LONG).await;
        sandbox
    };
    let sandbox = start().await;
    let names: Vec<_> = threads(&sandbox).into_iter().map(|(name, _)| name).collect();
    for expected in ["vcpu0", "workers", "virtio2", "virtio19", "virtio4", "virtio5", "kata-shim"] {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
    sandbox.delete().await.unwrap();
    for name in names {
        for one in &ATTEMPTS {
            let sandbox = start().await;
            let Some((_, thread)) = threads(&sandbox).into_iter().find(|(other, _)| *other == name) else {
                // A thread that waited for work, and ended in the meantime.
                sandbox.delete().await.unwrap();
                continue;
            };
            let outcome = tokio::task::spawn_blocking(move || attempt(thread, one)).await.unwrap();
            assert!(!matches!(outcome, Outcome::Succeeded(_)), "{name} could {}: {outcome:?}", one.what);
            sandbox.delete().await.unwrap();
        }
    }
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_shim_has_nothing_but_its_sandbox() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let other = fixture.start("d", 1.0).await;
    let of = |sandbox: &Sandbox| PathBuf::from(format!("/proc/{}", sandbox.shim_pid().unwrap()));
    let (process, neighbour) = (of(&sandbox), of(&other));
    for namespace in NAMESPACES {
        let own = |path: &PathBuf| fs::read_link(path.join("ns").join(namespace)).unwrap();
        assert_ne!(own(&process), own(&PathBuf::from("/proc/self")), "{namespace}");
        assert_ne!(own(&process), own(&neighbour), "{namespace}");
    }
    let user = |path: &PathBuf| fs::metadata(path.join("root")).unwrap().uid();
    assert!(user(&process) >= 2_000_000_000 && user(&process) != user(&neighbour));
    for task in fs::read_dir(process.join("task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let uid = user(&process).to_string();
        assert_eq!(field("Uid"), [uid.as_str(); 4].join(" "));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("NoNewPrivs"), field("Groups")), ("1".into(), String::new()));
        if !field("Name").starts_with("iou-") {
            assert_eq!(field("Seccomp"), "2", "{}", field("Name"));
        }
    }
    let mut seen: Vec<_> =
        fs::read_dir(process.join("root")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    seen.sort();
    assert_eq!(seen, ["container-c.log", "state.json", "vsock.sock"]);
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let largest = limits.lines().find_map(|line| line.strip_prefix("Max file size")).unwrap();
    let disk = (1u64 << 30).to_string();
    assert_eq!(largest.split_whitespace().take(2).collect::<Vec<_>>(), [&disk, &disk], "its disk's size");
    let cgroup = fs::read_to_string(process.join("cgroup")).unwrap();
    assert_eq!(cgroup.trim(), "0::/zun-kata-tests/c");
    let limit = fs::read_to_string("/sys/fs/cgroup/zun-kata-tests/c/memory.max").unwrap();
    assert_eq!(limit.trim(), ((128 + 64 + 64) << 20).to_string());
    sandbox.delete().await.unwrap();
    other.delete().await.unwrap();
    fixture.assert_clean();
}
