//! Many sandboxes: how fast they start together, and what they take of the host's memory.

use std::fs;
use std::time::Instant;

use futures::future::join_all;
use sandbox::Sandbox;
use tokio::runtime::Runtime;

use crate::sandboxes::{GUEST_MIB, Sandboxes};

const GROUP: Option<&str> = Some("group");
const CROWD: usize = 50;
const IDLE: usize = 100;

pub fn run(runtime: &Runtime, sandboxes: &Sandboxes) {
    runtime.block_on(async {
        let alone = one_by_one(sandboxes).await;
        let together = at_once(sandboxes).await;
        println!("Sandboxes a second with their container, from a template, {GUEST_MIB} MiB");
        println!("{CROWD} one by one                  {alone:6.2}");
        println!("{CROWD} at once                     {together:6.2}");
        println!("at once / one by one           {:6.2}   goal 1", together / alone);
        memory(sandboxes).await;
    });
}

async fn one_by_one(sandboxes: &Sandboxes) -> f64 {
    let began = Instant::now();
    let mut made = Vec::new();
    for n in 0..CROWD {
        made.push(start(sandboxes, n).await);
    }
    let rate = CROWD as f64 / began.elapsed().as_secs_f64();
    delete(made).await;
    rate
}

async fn at_once(sandboxes: &Sandboxes) -> f64 {
    let began = Instant::now();
    let made = join_all((0..CROWD).map(|n| start(sandboxes, n))).await;
    let rate = CROWD as f64 / began.elapsed().as_secs_f64();
    delete(made).await;
    rate
}

async fn start(sandboxes: &Sandboxes, n: usize) -> Sandbox {
    let sandbox = sandboxes.create(&format!("s{n}")).await;
    sandboxes.start(&sandbox, GROUP).await;
    sandbox
}

async fn delete(made: Vec<Sandbox>) {
    for sandbox in made {
        sandbox.delete().await.unwrap();
    }
}

async fn memory(sandboxes: &Sandboxes) {
    let before = available_mib();
    let mut made = Vec::new();
    for n in 0..IDLE {
        made.push(start(sandboxes, n).await);
    }
    let taken = before - available_mib();
    let mut shares: Vec<_> = made.iter().map(share).collect();
    shares.sort_by(|a, b| a.own.total_cmp(&b.own));
    let Share { own, guest } = shares[IDLE / 2];
    println!("Memory of {IDLE} sandboxes from a template, each with a container that sleeps, MiB");
    println!("shim beside its guest (PSS), median  {own:6.1}   goal 4");
    println!("guest (PSS), median                  {guest:6.1}");
    println!("taken of the host by all             {taken:6.0}   goal 1536");
    delete(made).await;
}

/// Proportional share of memory in MiB.
struct Share {
    own: f64,
    guest: f64,
}

/// A guest's memory is mapped from its template's file.
fn share(sandbox: &Sandbox) -> Share {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", sandbox.shim_pid().unwrap())).unwrap();
    let (mut share, mut is_guest) = (Share { own: 0.0, guest: 0.0 }, false);
    for line in maps.lines() {
        if let Some(pss) = line.strip_prefix("Pss:") {
            let kib: f64 = pss.trim_end_matches("kB").trim().parse().unwrap();
            *(if is_guest { &mut share.guest } else { &mut share.own }) += kib / 1024.0;
        } else if line.split_whitespace().next().is_some_and(|range| range.contains('-')) {
            is_guest = line.ends_with("/memory") || line.ends_with("/memory (deleted)");
        }
    }
    share
}

fn available_mib() -> f64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}
