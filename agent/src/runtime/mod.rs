//! Containers and processes made by `libcontainer`, which runs in a helper process.

mod devices;
mod executor;
mod filter;
mod helper;
mod launch;
mod pause;
mod update;

pub use devices::restrict as restrict_devices;
pub use executor::Confinement;
pub use filter::Filter;
pub use launch::{Stdio, archive, create, exec, make_pid_namespace, remove, start, start_with_hooks};
pub use update::update;

/// Where the control groups are.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Where files of the runtime's own are.
const RUNTIME_DIR: &str = "/run/kata-agent";

/// Where `libcontainer` keeps its state.
pub const STATE_DIR: &str = "/run/kata-agent/state";

/// What a helper leaves behind in its report file.
#[derive(Debug, PartialEq, Eq)]
enum Report {
    /// The process was made.
    Pid(i32),
    /// It was not; the text says why.
    Failed(String),
}

impl Report {
    fn to_text(&self) -> String {
        match self {
            Self::Pid(pid) => format!("pid {pid}"),
            Self::Failed(reason) => format!("failed {reason}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        match text.split_once(' ')? {
            ("pid", pid) => pid.parse().ok().map(Self::Pid),
            ("failed", reason) => Some(Self::Failed(reason.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_their_file() {
        for report in [Report::Pid(42), Report::Failed("no such\nfile".into())] {
            assert_eq!(Report::from_text(&report.to_text()), Some(report));
        }
        assert_eq!(Report::from_text(""), None);
    }
}
