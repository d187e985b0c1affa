use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::SandboxPlan;
use crate::state::SandboxState;

/// A sandbox's folder.
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

    /// The socket on which the shim takes requests.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The host side of the guest's vsock.
    pub fn vsock_socket(&self) -> PathBuf {
        self.0.join("vsock.sock")
    }

    /// The container's log; rotated files have `.1`, `.2` and so on appended.
    pub fn log(&self) -> PathBuf {
        self.0.join("container.log")
    }

    /// What the shim itself has to say.
    pub fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    /// The end of the guest's console, written when a guest dies.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The template that the shim has made, if it was asked to; there once it is whole.
    pub fn template(&self) -> PathBuf {
        self.0.join("template")
    }

    /// Reads the plan.
    pub fn read_plan(&self) -> io::Result<SandboxPlan> {
        read_json(&self.0.join("plan.json"))
    }

    /// Writes the plan.
    pub fn write_plan(&self, plan: &SandboxPlan) -> io::Result<()> {
        write_atomically(&self.0.join("plan.json"), &serde_json::to_vec(plan)?)
    }

    /// Reads the state.
    pub fn read_state(&self) -> io::Result<SandboxState> {
        read_json(&self.0.join("state.json"))
    }

    /// Writes the state.
    pub fn write_state(&self, state: &SandboxState) -> io::Result<()> {
        write_json(&self.0.join("state.json"), state)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value)?)
}

/// Replaces a file so that a reader, or a crash, sees the old content or the new.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
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
        let sandbox = SandboxDir::new(folder.path());
        let state = SandboxState {
            shim_pid: 7,
            phase: Phase::Failed { reason: "the guest panicked".into() },
            containers: BTreeMap::from([("a".into(), None)]),
            from_template: true,
            stages: BTreeMap::new(),
        };
        sandbox.write_state(&state).unwrap();
        assert_eq!(sandbox.read_state().unwrap(), state);
        assert!(!state.is_live());
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["state.json"], "nothing temporary is left");
    }
}
