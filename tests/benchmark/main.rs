//! Where the time of one `run` goes, and how long the same guest takes in QEMU's microvm.
//!
//!   benchmark pull       images, on this machine
//!   benchmark layout     images as one file each or one a layer, on this machine
//!   benchmark road       in the cloud of devstack/up: from the RPC message to the container's process
//!   benchmark calls      in the cloud of devstack/up: calls a second, the idle service, comparisons of states
//!   benchmark machine    where KVM works: from the start of the VMM to the agent's first answer

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod crowd;
mod disk;
mod guests;
mod layout;
mod machine;
mod pull;
mod road;
mod sandboxes;
mod tcp;

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("pull") => pull::run(),
        Some("layout") => layout::run(),
        Some("road") => road::run(),
        Some("calls") => calls::run(),
        Some("machine") => machine::run(),
        _ => panic!("usage: benchmark pull|layout|road|calls|machine"),
    }
}
