//! A cluster of two RabbitMQ nodes of the test's own, either of which can die.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cloud_tests::eventually;
use cloud_tests::registry::free_port;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// Seconds in which a node starts, at most.
const START_LIMIT: u64 = 90;

/// Both nodes. They end with it.
pub struct Pair {
    pub first: Node,
    pub second: Node,
}

impl Pair {
    /// Starts them, and waits until they are one cluster.
    pub fn start() -> Self {
        let first = Node::start("first", None);
        let second = Node::start("second", Some(&first));
        second.control(&["await_online_nodes", "2", "--timeout", "60"]);
        Self { first, second }
    }

    /// The URL of both, the first one first.
    pub fn url(&self) -> String {
        let [first, second] =
            [&self.first, &self.second].map(|node| format!("guest:guest@127.0.0.1:{}", node.port));
        format!("rabbit://{first},{second}/")
    }
}

/// One of them.
pub struct Node {
    name: String,
    home: TempDir,
    port: u16,
    process: Child,
}

impl Node {
    /// Starts a node, which joins the cluster of `other`, and waits until clients can connect.
    fn start(name: &str, other: Option<&Self>) -> Self {
        let name = format!("zunkata-{name}-{}@localhost", std::process::id());
        let home = tempfile::tempdir().unwrap();
        let port = free_port();
        configure(home.path(), port, other.map(|other| other.name.as_str()));
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let process = command(home.path(), &name, "rabbitmq-server")
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let node = Self { name, home, port, process };
        node.control(&["await_startup", "--timeout", "60"]);
        node
    }

    /// The URL of this node alone.
    pub fn url(&self) -> String {
        format!("rabbit://guest:guest@127.0.0.1:{}/", self.port)
    }

    /// Ends it at once, as a loss of power would.
    pub fn die(&mut self) {
        let group = Pid::from_raw(self.process.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.process.wait();
    }

    /// Has it do something, and tries again while it does not answer.
    fn control(&self, words: &[&str]) {
        eventually(START_LIMIT, &format!("{words:?} of {}", self.name), || {
            let mut command = command(self.home.path(), &self.name, "rabbitmqctl");
            let said = command.args(["-n", &self.name]).args(words).output().unwrap();
            let log = || std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            if said.status.success() {
                Ok(())
            } else {
                Err(format!("{}{}", String::from_utf8_lossy(&said.stderr), log()))
            }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.die();
    }
}

fn command(home: &Path, name: &str, program: &str) -> Command {
    let mut command = Command::new(Path::new(PROGRAMS).join(program));
    command
        .env("HOME", home)
        .env("RABBITMQ_NODENAME", name)
        .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq"))
        .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", home.join("logs"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    command
}

fn configure(home: &Path, port: u16, other: Option<&str>) {
    let mut text = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.file.level = warning\n");
    if let Some(other) = other {
        text += "cluster_formation.peer_discovery_backend = classic_config\n";
        text += &format!("cluster_formation.classic_config.nodes.1 = {other}\n");
    }
    std::fs::write(home.join("rabbitmq.conf"), text).unwrap();
    // What nodes know each other by.
    let cookie = home.join(".erlang.cookie");
    std::fs::write(&cookie, format!("COOKIE{}", std::process::id())).unwrap();
    std::fs::set_permissions(&cookie, PermissionsExt::from_mode(0o400)).unwrap();
}
