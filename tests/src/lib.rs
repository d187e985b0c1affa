//! What the whole-system tests share: where things are, waiting with a deadline, a cloud, its compute host.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod ballast;
pub mod capsules;
mod cli;
pub mod cloud;
pub mod control_plane;
pub mod docker;
pub mod killed;
pub mod oddities;
pub mod random;
pub mod registry;
pub mod relay;
mod said;
pub mod sandboxes;
pub mod stepped_clock;
pub mod swelling;
pub mod tenant;
pub mod throttled;
pub mod timed;
pub mod tls;
pub mod trees;

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The repository.
pub fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where `devstack/up` keeps its data.
pub fn devstack() -> PathBuf {
    top().join(".cache/devstack")
}

/// The Python that has OpenStack's packages.
pub fn python() -> PathBuf {
    let python = devstack().join("venv/bin/python");
    assert!(python.exists(), "there is no {}: ./tests/run installs it", python.display());
    python
}

/// Between two tries: at first, and at most. To look takes its time from what is waited for, above all in a lab.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Tries until it gives something. Panics with `what` and the last thing said when `seconds` have passed.
pub fn eventually<T>(seconds: u64, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut pause = PAUSE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(e) if Instant::now() > deadline => panic!("not within {seconds} s: {what}: {e}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

/// Waits until somebody listens on a port of loopback.
pub fn wait_for_port(port: u16) {
    eventually(30, &format!("port {port} is open"), || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|e| e.to_string())
    });
}

/// A process that ends with its owner.
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?}: {e}: ./tests/run installs what is missing")),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
