//! The cloud of `devstack/up`, used as its users and its operator use it.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use crate::said::Said;
use crate::{cli, devstack, eventually, top};

/// Tests look for what is left behind in the whole cloud, so that only one at a time may use it.
static TURN: Mutex<()> = Mutex::new(());

/// Everything on the compute host that a container could leave behind, one thing a line. Finished images are kept
/// on purpose, and so is the folder of an operator's sandboxes.
const THINGS_ON_HOST: &str = r#"
ip -o link | awk '{ print "link", $2 }'
ovs-vsctl list-ports br-int | sed 's/^/port /'
pgrep -x kata-shim | sed 's/^/shim /'
find /sys/fs/cgroup -mindepth 1 -type d ! -path '*/zun-kata/operator' | sed 's/^/cgroup /'
losetup -a | sed 's/^/loop /'
awk '{ print "mount", $2 }' /proc/mounts
cd /var/lib/zun-kata
find . -path './images/rootfs/*' -prune -o -path './images/sums/*' -prune -o -path './images/config/*' -prune \
  -o -path './images/refs/*' -prune \
  -o -path './templates/*' -prune -o ! -path ./operator -print | sed 's/^/file /'
"#;

const THINGS_IN_DATABASES: &str = "
SELECT CONCAT('neutron port ', id) FROM neutron.ports WHERE device_owner NOT LIKE 'network:%';
SELECT DISTINCT CONCAT('allocation ', consumer_id) FROM placement.allocations;
SELECT CONCAT('container ', uuid) FROM zun.container;
SELECT CONCAT('volume ', uuid) FROM zun.volume;
SELECT CONCAT('volume mapping ', uuid) FROM zun.volume_mapping;
SELECT CONCAT('security group ', name) FROM neutron.securitygroups WHERE name LIKE 'zun-%';
";

/// The cloud, in the hands of one test.
pub struct Cloud {
    _turn: MutexGuard<'static, ()>,
}

/// Runs `test` and then sees to it that nothing is left that was not there before. A lab may die of a fault in QEMU's
/// emulation; then it is brought up again, and the test gets a second chance. `tests/run` tells.
pub fn in_cloud(test: impl Fn(&Cloud)) {
    let cloud = Cloud { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) };
    let known = OnceCell::new();
    let attempt = || {
        let before = known.get_or_init(|| cloud.things());
        test(&cloud);
        cloud.assert_no_more_than(before);
    };
    if let Err(reason) = catch_unwind(AssertUnwindSafe(attempt)) {
        if cloud.on_host(&["true"]).status == 0 {
            drop(catch_unwind(AssertUnwindSafe(|| cloud.clear(known.get()))));
            resume_unwind(reason);
        }
        cloud.bring_host_up();
        cloud.clear(known.get());
        attempt();
    }
}

/// The administrator's token, which outlives all tests, and where Zun's API is.
fn session() -> &'static (String, String) {
    static SESSION: OnceLock<(String, String)> = OnceLock::new();
    SESSION.get_or_init(|| {
        let command = ". devstack/openrc
            openstack token issue -f value -c id
            openstack endpoint list --service container --interface public -f value -c URL";
        let output = Command::new("bash").args(["-ec", command]).current_dir(top()).output().unwrap();
        let said = Said::from(output).ok();
        let (token, url) = said.trim().split_once('\n').unwrap();
        (token.to_owned(), url.to_owned())
    })
}

/// How the names of the tests' own networks begin.
const NETWORK: &str = "network-";

/// A network for one test.
pub struct Network<'a> {
    cloud: &'a Cloud,
    /// Its name.
    pub name: String,
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        self.cloud.openstack(&["network", "delete", &self.name]);
    }
}

impl Cloud {
    /// The administrator's `openstack` command with these arguments.
    pub fn openstack(&self, arguments: &[&str]) -> Said {
        self.openstack_of("admin", arguments)
    }

    /// The same of the user of this name in the project of this name.
    pub fn openstack_of(&self, user: &str, arguments: &[&str]) -> Said {
        cli::openstack(user, arguments)
    }

    /// What Zun's API says at a path, whatever its status.
    pub fn api(&self, path: &str) -> Value {
        self.request("GET", path, "")
    }

    /// The same of another method, with a body of JSON. No answer is null.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Value {
        let (token, url) = session();
        let output = Command::new("curl")
            .args(["-sS", "-X", method, "-H", &format!("X-Auth-Token: {token}")])
            .args(["-H", "OpenStack-API-Version: container 1.40", "-H", "Content-Type: application/json"])
            .args(if body.is_empty() { vec![] } else { vec!["-d", body] })
            .arg(format!("{url}/{path}"))
            .output()
            .unwrap();
        let said = Said::from(output).ok();
        if said.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    /// What a shell command that must succeed prints in a container.
    pub fn exec(&self, uuid: &str, command: &str) -> String {
        self.openstack(&["appcontainer", "exec", uuid, "sh", "-c", command]).ok().trim().to_owned()
    }

    /// A command on the compute host.
    pub fn on_host(&self, arguments: &[&str]) -> Said {
        let program = top().join("devstack/on-host");
        Command::new("timeout").arg("120").arg(program).args(arguments).output().unwrap().into()
    }

    /// Kills Neutron's agent of the compute host and starts it again. Gives how long it took until it had looked at all ports.
    pub fn crash_neutron_agent(&self) -> Duration {
        let began = Instant::now();
        let said: Said = Command::new(top().join("devstack/crash-neutron-agent")).output().unwrap().into();
        said.ok();
        began.elapsed()
    }

    /// Whether the compute host is a virtual machine of the tests' own.
    pub fn is_in_lab(&self) -> bool {
        fs::read_to_string(devstack().join("run/host")).is_ok_and(|host| host.trim() == "lab")
    }

    /// Cuts the compute host's power, and waits until it serves again.
    pub fn cut_power(&self) {
        let said: Said = Command::new(top().join("devstack/cut-power")).output().unwrap().into();
        assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    }

    /// A shell command on the compute host that must succeed.
    pub fn shell(&self, command: &str) -> String {
        self.on_host(&["bash", "-c", command]).ok()
    }

    /// What a query gives, its columns separated by tabs.
    pub fn sql(&self, query: &str) -> String {
        let socket = top().join(".cache/devstack/state/mariadb/socket");
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-N", "-e", query, "--socket"])
            .arg(socket)
            .output()
            .unwrap();
        Said::from(output).ok().trim_end().to_owned()
    }

    /// `openstack appcontainer run` or `create` with these further arguments; gives the UUID.
    pub fn make(&self, verb: &str, arguments: &[&str]) -> String {
        let asked = self.openstack(&[&["appcontainer", verb, "-f", "json"], arguments].concat());
        let container: Value = serde_json::from_str(&asked.ok()).unwrap();
        container["uuid"].as_str().unwrap().to_owned()
    }

    /// The same of a container of the image busybox with these mounts, which runs a shell's command.
    pub fn make_mounting(&self, verb: &str, mounts: &[&str], command: &str) -> String {
        let mounts = mounts.iter().flat_map(|mount| ["--mount", mount]);
        let words: Vec<&str> =
            BUSYBOX.into_iter().chain(mounts).chain(["busybox", "sh", "-c", command]).collect();
        self.make(verb, &words)
    }

    /// Does something to a container by `openstack appcontainer` and waits for what it leads to.
    pub fn act(&self, words: &[&str], uuid: &str, status: &str) {
        self.openstack(&[&["appcontainer"], words, &[uuid]].concat()).ok();
        self.wait_for_status(uuid, status);
    }

    /// Runs a container of the image busybox on the network `net` and waits until it runs.
    pub fn run_busybox(&self, command: &str) -> String {
        let uuid = self.make("run", &[&BUSYBOX[..], &["busybox", "sh", "-c", command]].concat());
        self.wait_for_status(&uuid, "Running");
        uuid
    }

    /// What `openstack appcontainer show` says.
    pub fn show(&self, uuid: &str) -> Value {
        let shown = self.openstack(&["appcontainer", "show", "-f", "json", uuid]).ok();
        serde_json::from_str(&shown).unwrap()
    }

    /// Waits until the container's status is this and nothing is being done to it.
    pub fn wait_for_status(&self, uuid: &str, wanted: &str) {
        let query = format!(
            "SELECT status, IFNULL(task_state, '-'), IFNULL(status_reason, '') FROM zun.container WHERE uuid = '{uuid}'"
        );
        eventually(180, &format!("container {uuid} is {wanted}"), || {
            let now = self.sql(&query);
            let mut fields = now.split('\t');
            let there = fields.next() == Some(wanted) && fields.next() == Some("-");
            if there { Ok(()) } else { Err(now.clone()) }
        });
    }

    /// Waits until a container that runs is found healthy, or unhealthy.
    pub fn wait_for_health(&self, uuid: &str, health: &str) {
        eventually(60, &format!("container {uuid} is {health}"), || {
            let shown = self.show(uuid);
            let detail = shown["status_detail"].as_str().unwrap_or_default();
            let is_so = detail.starts_with("Up") && detail.ends_with(&format!("({health})"));
            if is_so { Ok(()) } else { Err(detail.to_owned()) }
        });
    }

    /// Its status, if nothing is being done to it; what it is doing, if not. A container that is gone is `gone`.
    pub fn settled(&self, uuid: &str) -> Result<String, String> {
        let query =
            format!("SELECT status, IFNULL(task_state, '-') FROM zun.container WHERE uuid = '{uuid}'");
        let row = self.sql(&query);
        let fields: Vec<&str> = row.split('\t').collect();
        match fields[..] {
            [""] => Ok("gone".into()),
            ["Creating" | "Deleting" | "Rebuilding" | "Restarting", ..] => Err(row),
            [status, "-"] => Ok(status.into()),
            _ => Err(row),
        }
    }

    /// Shims of a container: none or one.
    pub fn shims_of(&self, uuid: &str) -> usize {
        let count =
            self.shell(&format!("pgrep -fc '[k]ata-shim /var/lib/zun-kata/sandboxes/{uuid}' || true"));
        count.trim().parse().unwrap()
    }

    /// Makes a network. An earlier attempt at the same test may have left one: each has a name of its own.
    pub fn network(&self, prefix: &str) -> Network<'_> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{NETWORK}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        self.openstack(&["network", "create", &name]).ok();
        let network = Network { cloud: self, name };
        let name = &network.name;
        self.openstack(&["subnet", "create", "--network", name, "--subnet-range", prefix, name]).ok();
        network
    }

    /// Ports that Neutron has of a container.
    pub fn ports_of(&self, uuid: &str) -> Vec<String> {
        let ports = self.sql(&format!("SELECT id FROM neutron.ports WHERE device_id = '{uuid}'"));
        ports.lines().map(str::to_owned).collect()
    }

    /// Waits until the container ended in `Error` and gives the reason.
    pub fn wait_for_error(&self, uuid: &str) -> String {
        self.wait_for_status(uuid, "Error");
        self.show(uuid)["status_reason"].as_str().unwrap().to_owned()
    }

    /// Deletes a container by force, as users do that want it gone, and waits until it is.
    pub fn delete(&self, uuid: &str) {
        self.openstack(&["appcontainer", "delete", "--force", uuid]).ok();
        self.wait_until_gone(uuid);
    }

    /// Waits until the container's row is gone.
    pub fn wait_until_gone(&self, uuid: &str) {
        self.wait_until_gone_within(90, uuid);
    }

    /// The same, with so many seconds for it.
    pub fn wait_until_gone_within(&self, seconds: u64, uuid: &str) {
        eventually(seconds, &format!("container {uuid} is deleted"), || {
            let rows =
                self.sql(&format!("SELECT status, status_reason FROM zun.container WHERE uuid = '{uuid}'"));
            if rows.is_empty() { Ok(()) } else { Err(rows) }
        });
    }

    fn assert_no_more_than(&self, before: &BTreeSet<String>) {
        eventually(60, "everything is cleaned up", || {
            let left: Vec<String> = self.things().difference(before).cloned().collect();
            if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:#?}")) }
        });
    }

    /// Deletes the containers and networks that a failed test has left, so that later tests do not fail of them.
    fn clear(&self, before: Option<&BTreeSet<String>>) {
        let Some(before) = before else { return };
        let listed = self.sql("SELECT uuid FROM zun.container");
        let left = || listed.lines().filter(|uuid| !before.contains(&format!("container {uuid}")));
        for uuid in left() {
            for kind in ["containers", "capsules"] {
                self.request("DELETE", &format!("{kind}/{uuid}?force=true&all_projects=true"), "");
            }
        }
        left().for_each(|uuid| self.wait_until_gone_within(120, uuid));
        let networks = self.sql(&format!("SELECT id FROM neutron.networks WHERE name LIKE '{NETWORK}%'"));
        for id in networks.lines() {
            self.openstack(&["network", "delete", id]);
        }
    }

    fn bring_host_up(&self) {
        let said: Said = Command::new(top().join("devstack/up")).output().unwrap().into();
        assert_eq!(said.status, 0, "{}{}", said.out, said.err);
        let records = top().join(".cache/tests");
        fs::create_dir_all(&records).unwrap();
        let record = records.join("lab-deaths");
        let mut deaths = fs::OpenOptions::new().create(true).append(true).open(record).unwrap();
        writeln!(deaths, "the lab's machine died in {}", std::thread::current().name().unwrap_or("a test"))
            .unwrap();
    }

    fn things(&self) -> BTreeSet<String> {
        let mut things: BTreeSet<String> = self.shell(THINGS_ON_HOST).lines().map(str::to_owned).collect();
        things.extend(self.sql(THINGS_IN_DATABASES).lines().map(str::to_owned));
        things
    }
}

/// A shell's command that ends by no signal that it may ignore.
pub const STUBBORN: &str = "trap '' TERM; exec sleep 100000";

/// Arguments of `appcontainer run` for a small container on the network `net`.
pub const BUSYBOX: [&str; 8] =
    ["--cpu", "1", "--memory", "128", "--net", "network=net", "--image-pull-policy", "ifnotpresent"];

/// The log of a service on the compute host.
pub fn service_log(cloud: &Cloud) -> String {
    cloud.on_host(&["devstack/host", "log", "zun-kata-compute"]).ok()
}

/// The password of every user of the cloud.
pub fn password() -> String {
    std::fs::read_to_string(devstack().join("password")).unwrap()
}
