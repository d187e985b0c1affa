//! What goes through a guest's disk.

use tokio::runtime::Runtime;

use crate::guests::{Guest, Guests};
use crate::median;

const ROUNDS: usize = 10;
const MEBIBYTES: usize = 64;
const WRITE: &str = "time -f 'took %e' dd if=/dev/zero of=/x bs=1M count=64 conv=fsync 2>&1";
const READ: &str = "echo 3 >/proc/sys/vm/drop_caches; time -f 'took %e' dd if=/x of=/dev/null bs=1M 2>&1";

pub fn run(runtime: &Runtime, guests: &Guests) {
    println!("MiB a second, medians of {ROUNDS} rounds of {MEBIBYTES} MiB, each guest in turn");
    println!("                     ours     QEMU    ratio   goal 0.9");
    for (name, script) in [("disk, write", WRITE), ("disk, read", READ)] {
        let [ours, theirs] =
            guests.compare(ROUNDS, |guest, _| runtime.block_on(copy(guest, script))).map(median);
        println!("{name:16} {ours:8.1} {theirs:8.1} {:8.2}", ours / theirs);
    }
}

/// How fast a script copies, by the guest's clock.
async fn copy(guest: &Guest, script: &str) -> f64 {
    let said = guest.script(script).await;
    let seconds = said.lines().find_map(|line| line.strip_prefix("took "));
    MEBIBYTES as f64 / seconds.unwrap_or_else(|| panic!("{said}")).parse::<f64>().unwrap()
}
