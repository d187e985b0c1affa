//! Where the time of one `run` goes, and how long the same guest takes in QEMU's microvm.
//!
//!   benchmark pull       images, on this machine
//!   benchmark layout     images as one file each or one a layer, on this machine
//!   benchmark road       in the cloud of devstack/up: from the RPC message to the container's process
//!   benchmark calls      in the cloud of devstack/up: calls a second, the idle service, comparisons of states
//!   benchmark neighbours in the cloud of devstack/up: `show` beside stalled operations, starts with many containers, round trips
//!   benchmark hardening  where KVM works: what filters and a hardened kernel cost a container
//!   benchmark machine    where KVM works: from the start of the VMM to the agent's first answer

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod crowd;
mod disk;
mod guests;
mod hardening;
mod layout;
mod machine;
mod neighbours;
mod pull;
mod road;
mod round_trips;
mod sandboxes;
mod serving;
#[path = "../cloud/stalled.rs"]
mod stalled;
mod tcp;

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The middle one, the smallest and the largest.
fn spread(values: Vec<f64>) -> [f64; 3] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [median(values), least, most]
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("pull") => pull::run(),
        Some("layout") => layout::run(),
        Some("road") => road::run(),
        Some("calls") => calls::run(),
        Some("neighbours") => neighbours::run(),
        Some("hardening") => hardening::run(),
        Some("machine") => machine::run(),
        _ => panic!("usage: benchmark pull|layout|road|calls|neighbours|hardening|machine"),
    }
}
