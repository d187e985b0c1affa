use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::plan::SandboxPlan;
use crate::state::SandboxState;

/// Most bytes of a state or a plan.
const JSON_MAX: u64 = 4 << 20;

/// A sandbox's folder, in which only the controller writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxDir(PathBuf);

impl SandboxDir {
    /// The folder at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the shim may write, and all that it sees once it is confined.
    pub fn run(&self) -> RunDir {
        RunDir(self.0.join("run"))
    }

    /// The socket on which the shim takes requests.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// What the shim itself has to say.
    pub fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    /// Reads the plan.
    pub fn read_plan(&self) -> io::Result<SandboxPlan> {
        Ok(serde_json::from_slice(&read_bounded(&self.plan())?)?)
    }

    /// Writes the plan.
    pub fn write_plan(&self, plan: &SandboxPlan) -> io::Result<()> {
        write_atomically(&self.plan(), &serde_json::to_vec(plan)?)
    }

    fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }
}

/// The part of a sandbox's folder that the shim writes. What is in it is as trustworthy as the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The host side of the guest's vsock.
    pub fn vsock_socket(&self) -> PathBuf {
        self.0.join("vsock.sock")
    }

    /// A container's log; rotated files have `.1`, `.2` and so on appended.
    pub fn log(&self, container: &str) -> PathBuf {
        self.0.join(format!("container-{container}.log"))
    }

    /// Whether a file of this folder has the name of a container's log, rotated or not.
    pub fn is_log(name: &OsStr) -> bool {
        let name = name.as_encoded_bytes();
        name.starts_with(b"container-") && name.windows(4).any(|part| part == b".log")
    }

    /// The end of the guest's console, written when a guest dies.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The template that the shim has made, if it was asked to; there once it is whole.
    pub fn template(&self) -> PathBuf {
        self.0.join("template")
    }

    /// The sandbox's state.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Reads the state.
    pub fn read_state(&self) -> io::Result<SandboxState> {
        Ok(serde_json::from_slice(&read_bounded(&self.state())?)?)
    }

    /// Writes the state.
    pub fn write_state(&self, state: &SandboxState) -> io::Result<()> {
        write_atomically(&self.state(), &serde_json::to_vec(state)?)
    }
}

/// Opens a file that a shim may have put there: a link, a pipe or a device in its place is an error.
pub fn open_untrusted(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_untrusted(path)?.take(JSON_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > JSON_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(bytes)
}

/// Replaces a file so that a reader, or a crash, sees the old content or the new.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let temporary = path.with_file_name(name);
    // Whatever has the name, a crash's or somebody else's, is neither followed nor written to.
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).open(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::Phase;

    #[test]
    fn state_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let state = SandboxState {
            phase: Phase::Failed { reason: "the guest panicked".into() },
            containers: BTreeMap::from([("a".into(), None)]),
            from_template: true,
            stages: BTreeMap::new(),
        };
        run.write_state(&state).unwrap();
        assert_eq!(run.read_state().unwrap(), state);
        assert!(!state.is_live());
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["state.json"], "nothing temporary is left");
    }

    #[test]
    fn a_shims_link_or_endless_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let secret = folder.path().join("secret");
        fs::write(&secret, "{}").unwrap();
        std::os::unix::fs::symlink(&secret, run.state()).unwrap();
        assert!(open_untrusted(&run.state()).is_err());
        fs::remove_file(run.state()).unwrap();
        File::create(run.state()).unwrap().set_len(JSON_MAX + 1).unwrap();
        assert!(run.read_state().unwrap_err().to_string().contains("too long"));
        assert!(open_untrusted(folder.path()).is_err(), "a folder");
    }
}
