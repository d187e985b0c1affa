//! The folder in which a shim writes. Each shim has a new one: before it is confined it writes there with all rights, and must
//! find nothing that the last one has left, except the logs.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use shim_control::{RunDir, SandboxDir};

use crate::error::{Error, Result};
use crate::files;

/// Most logs that are taken over: those of all containers of a capsule, as often as they are rotated.
const LOGS_MAX: usize = 4096;

/// Replaces the folder with a new one that holds only the containers' logs. If it is interrupted, the next call completes it.
pub fn renew(sandbox: &SandboxDir) -> Result<()> {
    let run = sandbox.run();
    let run = run.path();
    let (next, last) = (sandbox.path().join("run.next"), sandbox.path().join("run.last"));
    match DirBuilder::new().mode(0o700).create(&next) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io("make", &next)(e)),
        _ => {}
    }
    for folder in [&last, run] {
        keep_logs(folder, &next)?;
    }
    files::remove_folder(&last)?;
    if run.exists() {
        fs::rename(run, &last).map_err(Error::io("put aside", run))?;
    }
    fs::rename(&next, run).map_err(Error::io("make", run))?;
    files::remove_folder(&last)
}

/// Moves what are logs. Whatever else has the name of one stays.
fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", from))?,
    };
    let mut kept = 0;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", from))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && kept < LOGS_MAX && RunDir::is_log(&entry.file_name()) {
            kept += 1;
            let (old, new) = (entry.path(), to.join(entry.file_name()));
            fs::rename(&old, new).map_err(Error::io("keep", old))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn logs_stay_and_nothing_else_does() {
        let place = tempfile::tempdir().unwrap();
        let sandbox = SandboxDir::new(place.path());
        renew(&sandbox).unwrap();
        let run = sandbox.run().path().to_owned();
        let host = place.path().join("host");
        fs::write(&host, "untouched").unwrap();
        for name in ["container-c.log", "container-c.log.1", "state.json", "vsock.sock"] {
            fs::write(run.join(name), name).unwrap();
        }
        symlink(&host, run.join("state.json.new.1")).unwrap();
        symlink(&host, run.join("container-d.log")).unwrap();
        fs::create_dir_all(run.join("container-e.log/deep")).unwrap();
        renew(&sandbox).unwrap();
        assert_eq!(names(&run), ["container-c.log", "container-c.log.1"]);
        assert_eq!(names(place.path()), ["host", "run"]);
        assert_eq!(fs::read_to_string(host).unwrap(), "untouched");
    }

    #[test]
    fn an_interruption_loses_no_log() {
        let place = tempfile::tempdir().unwrap();
        let sandbox = SandboxDir::new(place.path());
        for (folder, log) in [("run.next", "container-a.log"), ("run.last", "container-b.log")] {
            fs::create_dir(place.path().join(folder)).unwrap();
            fs::write(place.path().join(folder).join(log), "").unwrap();
        }
        renew(&sandbox).unwrap();
        assert_eq!(names(sandbox.run().path()), ["container-a.log", "container-b.log"]);
        assert_eq!(names(place.path()), ["run"]);
    }
}
