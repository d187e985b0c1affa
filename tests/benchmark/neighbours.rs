//! What others cost: `show` beside operations that do not end, the service's start beside many containers, and how often
//! one `run` asks the database.

use std::time::Instant;

use cloud_tests::cloud::{Cloud, in_cloud};

use crate::stalled::Stubborn;
use crate::{round_trips, serving};

const CALLS: usize = 200;

pub fn run() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("sleep 100000");
        shows(cloud, &uuid);
        serving::run(cloud, &uuid);
        round_trips::run(cloud, &uuid);
        cloud.delete(&uuid);
    });
}

/// The operations are of the same project here: that nobody waits for another's is what a test of the cloud shows.
fn shows(cloud: &Cloud, uuid: &str) {
    // Who asks gets a token.
    show(cloud, uuid);
    let stubborn = Stubborn::run(cloud);
    let idle = milliseconds(cloud, uuid);
    let stalled = stubborn.stall();
    let waiting = stalled.waiting();
    let beside = milliseconds(cloud, uuid);
    assert_eq!(stalled.waiting(), waiting, "the operations waited all the while");
    println!("show through the API, milliseconds of {CALLS} calls one after the other");
    println!("{:<28} {:>8} {:>8} {:>8} {:>8}", "", "median", "99th %", "least", "most");
    print_row("idle", &idle);
    print_row(&format!("beside {waiting} waiting stops"), &beside);
    println!("99th percentile, beside / idle {:8.2}   goal 2", late(&beside) / late(&idle));
    stalled.end();
}

fn show(cloud: &Cloud, uuid: &str) {
    let shown = cloud.api(&format!("containers/{uuid}"));
    assert_eq!(shown["status"], "Running", "{shown}");
}

/// What each call took, the shortest first.
fn milliseconds(cloud: &Cloud, uuid: &str) -> Vec<f64> {
    let call = |_| {
        let began = Instant::now();
        show(cloud, uuid);
        began.elapsed().as_secs_f64() * 1000.0
    };
    let mut all: Vec<f64> = (0..CALLS).map(call).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The 99th percentile.
fn late(sorted: &[f64]) -> f64 {
    sorted[(sorted.len() - 1) * 99 / 100]
}

fn print_row(name: &str, sorted: &[f64]) {
    let (median, least, most) = (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]);
    println!("{name:<28} {median:8.1} {:8.1} {least:8.1} {most:8.1}", late(sorted));
}
