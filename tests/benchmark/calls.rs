//! Calls of `container_show`, against a Python server that answers them from the same database; what the idle service takes;
//! and what one comparison of states costs.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud, service_log};
use cloud_tests::{devstack, eventually, python, top};
use model::{Container, ContainerType};
use oslo::{Client, RabbitOptions, RequestContext};
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

use crate::median;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(10);
/// Calls that are under way at one time. With many more the Python server loses connections to the database here.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);
const PEER: (&str, &str) = ("zun-compute-peer", "peer");
const CONTAINERS: [usize; 3] = [10, 100, 1000];

pub fn run() {
    in_cloud(|cloud| {
        let uuid = cloud.make("run", &[&BUSYBOX[..], &["busybox", "true"]].concat());
        cloud.wait_for_status(&uuid, "Stopped");
        let host = cloud.sql("SELECT host FROM zun.zun_service");
        resident(cloud);
        calls(cloud, &uuid, &host);
        comparisons(cloud, &uuid);
        cloud.delete(&uuid);
    });
}

fn resident(cloud: &Cloud) {
    let status = cloud.shell("cat /proc/$(pgrep -x zun-kata-comput)/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kibibytes: f64 =
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    println!("resident memory of the service   {:8.1} MiB   goal 20", kibibytes / 1024.0);
}

fn calls(cloud: &Cloud, uuid: &str, host: &str) {
    let runtime = Runtime::new().unwrap();
    let peer = Peer::start();
    let container = runtime.block_on(on_wire(uuid));
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (index, key) in
            [format!("zun-compute.{host}"), format!("{}.{}", PEER.0, PEER.1)].iter().enumerate()
        {
            results[index].push(runtime.block_on(load(key, &container)));
        }
    }
    drop(peer);
    // The service is still well.
    assert_eq!(cloud.show(uuid)["status"], "Stopped");
    let of = |results: &[Load], value: fn(&Load) -> f64| median(results.iter().map(value).collect());
    println!("container_show, {AT_ONCE} at once, medians of {ROUNDS} rounds of {} s", ROUND.as_secs());
    for (name, results) in ["ours", "oslo.messaging"].iter().zip(&results) {
        println!(
            "{name:16} {:8.0} calls a second, 50th percentile {:7.2} ms, 99th {:8.2} ms",
            of(results, |load| load.rate),
            of(results, |load| load.middle),
            of(results, |load| load.late)
        );
    }
    let ratio = |value| of(&results[0], value) / of(&results[1], value);
    println!("rate, ours / theirs   {:8.1}   goal 10", ratio(|load| load.rate));
    println!("99th percentile       {:8.3}   goal 0.1", ratio(|load| load.late));
}

/// The Python server, beside ours on the compute host.
struct Peer(Child);

impl Peer {
    fn start() -> Self {
        let mut child = Command::new(top().join("devstack/on-host"))
            .arg(python())
            .arg(top().join("tests/benchmark/show_server.py"))
            .arg(devstack().join("etc/zun/zun.conf"))
            .args([PEER.0, PEER.1])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        assert_eq!(line.trim(), "ready");
        Self(child)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let program = top().join("devstack/on-host");
        // It may have ended by itself.
        let _ = Command::new(program).args(["pkill", "-f", "[s]how_server.py"]).status();
        let _ = self.0.wait();
    }
}

fn configuration(section: &str, name: &str) -> String {
    let text = std::fs::read_to_string(devstack().join("etc/zun/zun.conf")).unwrap();
    let section = text.split(&format!("[{section}]")).nth(1).unwrap();
    let line = section.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
    line.split_once(" = ").unwrap().1.to_owned()
}

/// The container as the API would send it now.
async fn on_wire(uuid: &str) -> Value {
    let url: model::DatabaseUrl = configuration("database", "connection").parse().unwrap();
    let database = url.pool(1);
    let row = Container::get(&database, ContainerType::Container, uuid.parse().unwrap()).await.unwrap();
    row.to_wire().unwrap()
}

struct Load {
    rate: f64,
    /// Milliseconds.
    middle: f64,
    late: f64,
}

async fn load(key: &str, container: &Value) -> Load {
    let url = configuration("DEFAULT", "transport_url").parse().unwrap();
    let client = Arc::new(Client::new(url, RabbitOptions::default(), "zun"));
    let arguments = Map::from_iter([("container".to_owned(), container.clone())]);
    let call = |client: Arc<Client>, arguments| async move {
        let began = Instant::now();
        let context = RequestContext::default();
        let shown = client.call(&context, key, "container_show", arguments, PATIENCE).await.unwrap();
        assert_eq!(shown["zun_object.data"]["status"], "Stopped");
        began.elapsed().as_secs_f64() * 1000.0
    };
    // Whoever connects does so now.
    call(Arc::clone(&client), arguments.clone()).await;
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let workers = (0..AT_ONCE).map(|_| async {
        let mut took = Vec::new();
        while !over.load(Ordering::Relaxed) {
            took.push(call(Arc::clone(&client), arguments.clone()).await);
        }
        took
    });
    let clock = async {
        tokio::time::sleep(ROUND).await;
        over.store(true, Ordering::Relaxed);
    };
    let (all, ()) = tokio::join!(futures::future::join_all(workers), clock);
    let elapsed = began.elapsed().as_secs_f64();
    let mut all = all.concat();
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    Load { rate: all.len() as f64 / elapsed, middle: at(0.5), late: at(0.99) }
}

/// One comparison with so many containers: copies of one that has ended, in the database and on the host.
fn comparisons(cloud: &Cloud, uuid: &str) {
    println!("one comparison of states (an emulated CPU)");
    for count in CONTAINERS {
        let copies = Copies::make(cloud, uuid, count);
        let before = service_log(cloud).matches("states compared").count();
        cloud.shell("kill -9 $(pgrep -x zun-kata-comput)");
        cloud.shell("RUST_LOG=info,zun_kata_compute::manager::sync=debug devstack/host start");
        let line = eventually(300, "the states are compared", || {
            let log = service_log(cloud);
            let mut lines = log.lines().filter(|line| line.contains("states compared"));
            lines.nth(before).map(str::to_owned).ok_or_else(|| "no line".into())
        });
        let micros: f64 =
            line.split(" in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
        let rows =
            cloud.sql("SELECT COUNT(*) FROM zun.container WHERE host IS NOT NULL AND container_type < 2");
        assert!(line.contains(&format!("count={rows} ")), "{line}");
        println!("{count:6} containers  {:9.2} ms, {:6.1} us each", micros / 1000.0, micros / count as f64);
        drop(copies);
    }
}

struct Copies<'a>(&'a Cloud);

impl<'a> Copies<'a> {
    fn make(cloud: &'a Cloud, uuid: &str, count: usize) -> Self {
        let columns = "container_type, container_id, name, status, host, image, cpu, memory, project_id, user_id, created_at";
        cloud.sql(&format!(
            "INSERT INTO zun.container (uuid, {columns}) SELECT CONCAT('c0ffee00-0000-4000-8000-', LPAD(seq, 12, '0')), \
             container_type, CONCAT('c0ffee00-0000-4000-8000-', LPAD(seq, 12, '0')), CONCAT('copy-', seq), status, host, image, \
             0, '0', project_id, user_id, created_at FROM zun.container, zun.seq_1_to_{count} WHERE uuid = '{uuid}'"
        ));
        cloud.shell(&format!(
            "cd /var/lib/zun-kata/sandboxes; for n in $(seq -f %012.0f {count}); do new=c0ffee00-0000-4000-8000-$n; \
             mkdir -p $new/run; for f in container.json run/state.json; do sed s/{uuid}/$new/g {uuid}/$f >$new/$f; done; done"
        ));
        Self(cloud)
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        self.0.sql("DELETE FROM zun.container WHERE uuid LIKE 'c0ffee00-%'");
        self.0.shell("rm -rf /var/lib/zun-kata/sandboxes/c0ffee00-*");
    }
}
