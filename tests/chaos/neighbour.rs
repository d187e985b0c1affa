//! A tenant whom nobody touches, and how long he has been without what is his.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cloud_tests::cloud::Cloud;
use cloud_tests::tenant::Tenant;

/// Between two commands.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks ten times a second how long its guest has been up, and prints that and the longest time between two looks so far. He
/// counts himself: what he prints while the disk is full is lost.
const TICKS: &str = r#"awk 'BEGIN { while (1) {
  getline line <"/proc/uptime"; close("/proc/uptime"); split(line, up, " ")
  if (last && up[1] - last > most) most = up[1] - last
  last = up[1]; printf "%.2f %.2f\n", last, most; fflush(); system("sleep 0.1")
} }'"#;

/// Him, with a container that runs.
pub struct Neighbour<'a> {
    tenant: &'a Tenant<'a>,
    /// The container.
    pub uuid: String,
}

/// What he saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Commands that were answered, and all.
    pub answered: (usize, usize),
    /// When a silence began, and how long it was.
    pub silences: Vec<(Instant, Duration)>,
}

impl<'a> Neighbour<'a> {
    /// Moves in, on this network.
    pub fn move_in(cloud: &'a Cloud, tenant: &'a Tenant<'a>, network: &str) -> Self {
        let net = format!("network={network}");
        let uuid = tenant.runs_command(&["--net", &net], TICKS);
        let neighbour = Self { tenant, uuid };
        assert!(
            neighbour.is_answered(),
            "nothing has failed yet: {}",
            cloud.settled(&neighbour.uuid).unwrap()
        );
        neighbour
    }

    /// Whether a command in his container is done.
    pub fn is_answered(&self) -> bool {
        self.tenant.openstack(&["appcontainer", "exec", &self.uuid, "true"]).status == 0
    }

    /// Asks for something until it is over.
    pub fn watch(&self, is_over: &AtomicBool) -> Seen {
        let mut seen = Seen::default();
        let mut last = Instant::now();
        while !is_over.load(Ordering::SeqCst) {
            seen.answered.1 += 1;
            if self.is_answered() {
                seen.answered.0 += 1;
                seen.silences.push((last, last.elapsed()));
                last = Instant::now();
            }
            sleep(PAUSE);
        }
        seen.silences.push((last, last.elapsed()));
        seen
    }

    /// The longest time for which his process did not run, in seconds, by its own clock.
    pub fn longest_pause(&self) -> f64 {
        let uptime = self.tenant.openstack(&["appcontainer", "exec", &self.uuid, "cat", "/proc/uptime"]).ok();
        let uptime: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
        let log = self.tenant.openstack(&["appcontainer", "logs", &self.uuid]).ok();
        let (last, most) = last_look(&log).unwrap_or_else(|| panic!("he has printed no look: {log}"));
        // One that stands still for good looks no more.
        most.max(uptime - last)
    }
}

/// When he looked last, and the longest time between two looks until then. The last line may be cut off.
fn last_look(log: &str) -> Option<(f64, f64)> {
    let (whole, _) = log.rsplit_once('\n')?;
    whole.lines().rev().find_map(|line| {
        let (last, most) = line.trim().split_once(' ')?;
        Some((last.parse().ok()?, most.parse().ok()?))
    })
}
