//! A Docker daemon of a test's own, which reaches no network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::said::Said;
use crate::{Process, devstack, eventually};

/// What `dockerd` and the containerd that it starts need no file of the machine's for.
const OPTIONS: [&str; 5] =
    ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none", "--storage-driver=vfs"];

/// A daemon, and the folder in which all of it is.
pub struct Docker {
    folder: TempDir,
    _process: Process,
}

impl Docker {
    /// Starts it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        // Whom it starts, and what it mounts, goes with its namespaces.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(program("sbin/dockerd")).args(OPTIONS).arg("--data-root").arg(at("data"));
        command.arg("--exec-root").arg(at("run")).arg("--pidfile").arg(at("pid"));
        command.arg("--host").arg(host(folder.path())).env("PATH", path());
        command.stdout(Stdio::null()).stderr(std::fs::File::create(at("log")).unwrap());
        let process = Process::start(&mut command);
        let docker = Self { folder, _process: process };
        eventually(60, "Docker answers", || {
            let said = docker.say(&["version"]);
            if said.status == 0 { Ok(()) } else { Err(said.err) }
        });
        docker
    }

    /// What a command prints, which succeeds.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.say(arguments).ok()
    }

    fn say(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(program("bin/docker"));
        command.arg("--host").arg(host(self.folder.path())).args(arguments);
        command.output().unwrap().into()
    }
}

fn program(name: &str) -> PathBuf {
    let program = devstack().join("docker/usr").join(name);
    assert!(program.exists(), "there is no {}: ./tests/run installs it", program.display());
    program
}

fn path() -> String {
    let usr = devstack().join("docker/usr").display().to_string();
    format!("{usr}/bin:{usr}/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join("socket").display())
}
