//! The shims among this host's processes, found by what they were started on: a number in a file may be another process's by
//! now.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// Links of a `task` folder that holds one thread.
const LINKS_OF_ONE_THREAD: u64 = 3;

/// All shims that were started as `program`, and the folders on which they were started.
pub fn running(program: &Path) -> impl Iterator<Item = (Pid, PathBuf)> {
    let program = program.file_name();
    let processes = fs::read_dir("/proc").into_iter().flatten();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw).filter_map(move |pid| {
        let command = command_line(pid)?;
        let mut words = command.split(|byte| *byte == 0).map(OsStr::from_bytes);
        let is_shim = Path::new(words.next()?).file_name() == program;
        is_shim.then_some((pid, PathBuf::from(words.next()?)))
    })
}

/// The shim that was started as `program` on `folder`, if there is one.
pub fn find(program: &Path, folder: &Path) -> Option<Pid> {
    running(program).find(|(_, found)| found == folder).map(|(pid, _)| pid)
}

/// Of a process that was killed, the first thread may have ended while another still waits for its storage: that one knows the
/// command line, too (`proc_pid_cmdline(5)`: none of a zombie).
fn command_line(pid: Pid) -> Option<Vec<u8>> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let tasks = format!("/proc/{pid}/task");
    if !command.is_empty() || fs::metadata(&tasks).ok()?.nlink() <= LINKS_OF_ONE_THREAD {
        return Some(command);
    }
    let threads = fs::read_dir(tasks).ok()?.flatten();
    threads.filter_map(|thread| fs::read(thread.path().join("cmdline")).ok()).find(|one| !one.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    const PROGRAM: &str = "a-shim-of-a-test";
    /// Ends its first thread while another goes on until its input ends.
    const LEAVES_A_THREAD: &str = "\
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
";

    fn await_that(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_shim_is_there_until_its_last_thread_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("__main__.py"), LEAVES_A_THREAD).unwrap();
        let mut shim = Command::new("/usr/bin/python3")
            .arg0(PROGRAM)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let own = Pid::from_raw(shim.id().cast_signed());
        let found = || running(Path::new(PROGRAM)).any(|one| one == (own, folder.path().to_owned()));
        await_that("its first thread ends", || {
            fs::read_to_string(format!("/proc/{own}/stat")).unwrap().contains(") Z ")
        });
        assert!(found(), "a thread of it goes on");
        drop(shim.stdin.take());
        await_that("it is not found once it has ended", || !found());
        shim.wait().unwrap();
    }
}
