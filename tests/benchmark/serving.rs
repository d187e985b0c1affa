//! How long the service takes from the start of its process until it serves, with few containers and with many that are stopped.

use cloud_tests::cloud::{BUSYBOX, Cloud};
use cloud_tests::eventually;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::spread;

const ROUNDS: usize = 3;
const ROWS: usize = 1000;
/// Ends the service, which has no time to say good-bye.
pub const END: &str =
    "kill -9 $(pgrep -x zun-kata-comput); while pgrep -x zun-kata-comput >/dev/null; do sleep 0.1; done";

/// `running` is a container that runs all the while.
pub fn run(cloud: &Cloud, running: &str) {
    let uuid = cloud.make("run", &[&BUSYBOX[..], &["busybox", "true"]].concat());
    cloud.wait_for_status(&uuid, "Stopped");
    println!("Seconds from the start of the service's process until it serves, {ROUNDS} starts each");
    println!("{:<28} {:>8} {:>8} {:>8}", "", "median", "least", "most");
    let few = print_row("few containers", cloud, running);
    let copies = Copies::make(cloud, &uuid, ROWS);
    let many = print_row(&format!("{ROWS} more, stopped"), cloud, running);
    println!("difference of the medians    {:8.2}   goal: below 5 in all", many - few);
    drop(copies);
    cloud.delete(&uuid);
}

/// Gives the median.
fn print_row(name: &str, cloud: &Cloud, running: &str) -> f64 {
    let [median, least, most] = spread((0..ROUNDS).map(|_| seconds_to_serving(cloud, running)).collect());
    println!("{name:<28} {median:8.2} {least:8.2} {most:8.2}");
    median
}

fn seconds_to_serving(cloud: &Cloud, running: &str) -> f64 {
    cloud.shell(END);
    let serves = start(cloud, running);
    serves.unix_timestamp_nanos() as f64 / 1e9 - process_began(cloud)
}

/// Starts the service, and gives the time at which it said that it serves.
pub fn start(cloud: &Cloud, running: &str) -> OffsetDateTime {
    let before = times_served(cloud).len();
    cloud.shell("devstack/host start");
    eventually(300, "the service serves", || {
        // Who asks it something is answered then: to look into its log all the time would keep a lab's one CPU from it.
        cloud.api(&format!("containers/{running}"));
        times_served(cloud).get(before).copied().ok_or_else(|| "it does not yet".into())
    })
}

fn times_served(cloud: &Cloud) -> Vec<OffsetDateTime> {
    let lines = cloud.shell("devstack/host log zun-kata-compute | grep 'serving RPC' || true");
    let time = |line: &str| OffsetDateTime::parse(line.split(' ').next().unwrap(), &Rfc3339).unwrap();
    lines.lines().map(time).collect()
}

/// When the service's process began, in seconds of Unix time.
fn process_began(cloud: &Cloud) -> f64 {
    let said = cloud.shell(
        "ticks=$(cut -d ' ' -f 22 /proc/$(pgrep -x zun-kata-comput)/stat); second=$(getconf CLK_TCK)
         echo $(date +%s.%N) $(cut -d ' ' -f 1 /proc/uptime) $ticks $second",
    );
    let numbers: Vec<f64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [now, uptime, ticks, second] = numbers[..] else { panic!("{said}") };
    now - uptime + ticks / second
}

/// Copies of a container that has ended, in the database and on the host.
struct Copies<'a>(&'a Cloud);

impl<'a> Copies<'a> {
    /// The folders come first: a row without one would be taken for lost. The port stays the original's alone.
    fn make(cloud: &'a Cloud, uuid: &str, count: usize) -> Self {
        let copies = Self(cloud);
        cloud.shell(&format!(
            "cd /var/lib/zun-kata/sandboxes/{uuid}
             seq -f ../c0ffee00-0000-4000-8000-%012.0f/run {count} | xargs mkdir -p
             for file in *.json run/*.json; do
               [ -f $file ] || continue
               text=$(python3 -c 'import json, sys
kept = json.load(open(sys.argv[1]))
if \"attachments\" in kept: kept[\"attachments\"] = []
print(json.dumps(kept))' $file)
               for copy in $(seq -f c0ffee00-0000-4000-8000-%012.0f {count}); do
                 echo \"${{text//{uuid}/$copy}}\" >../$copy/$file
               done
             done"
        ));
        let columns = "container_type, name, status, status_detail, host, image, cpu, memory, project_id, user_id, created_at";
        cloud.sql(&format!(
            "INSERT INTO zun.container (uuid, container_id, {columns}) \
             SELECT CONCAT('c0ffee00-0000-4000-8000-', LPAD(seq, 12, '0')), CONCAT('c0ffee00-0000-4000-8000-', LPAD(seq, 12, '0')), \
             container_type, CONCAT('copy-', seq), status, status_detail, host, image, 0, '0', project_id, user_id, created_at \
             FROM zun.container, zun.seq_1_to_{count} WHERE uuid = '{uuid}'"
        ));
        copies
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        self.0.sql("DELETE FROM zun.container WHERE uuid LIKE 'c0ffee00-%'");
        self.0.shell("rm -rf /var/lib/zun-kata/sandboxes/c0ffee00-*");
    }
}
