//! The disk on which a container writes.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use cloud_tests::eventually;
use sandbox::{ContainerSpec, RateLimit, Sandbox};

use crate::fixture::{Fixture, exec, output};

const LONG: [&str; 2] = ["sleep", "100000"];
const MEBIBYTE: u64 = 1 << 20;

/// A bound holds however slow or fast the host is: less time than it allows for is what must not pass.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_disk_moves_no_more_than_it_may() {
    let fixture = Fixture::new();
    let disk = RateLimit { bytes: 1 << 20, ..Default::default() };
    let sandbox = fixture.start("c", 1.0).await;
    sandbox.make_disk("c", 1).await.unwrap();
    let container = ContainerSpec { disk_limit: disk, ..fixture.container("c", &LONG) };
    sandbox.run(&container).await.unwrap();
    let began = Instant::now();
    output(&sandbox, "c", "dd if=/dev/zero of=/x bs=1M count=6 && sync").await;
    assert!(began.elapsed() > Duration::from_secs(4), "6 MiB at 1 MiB a second took {:?}", began.elapsed());
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

/// What the only disk of a sandbox takes of the host's, in MiB.
fn space_taken(sandbox: &Sandbox) -> u64 {
    let disks = std::fs::read_dir(sandbox.path()).unwrap().map(|entry| entry.unwrap().path());
    let disk = disks.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "ext4")).unwrap();
    disk.metadata().unwrap().blocks() * 512 / MEBIBYTE
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_disk_holds_as_much_as_was_asked_for_and_gives_space_back() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let empty = space_taken(&sandbox);
    assert!(empty < 50, "a new disk takes {empty} MiB");
    output(&sandbox, "c", "dd if=/dev/urandom of=/big bs=1M count=100 2>/dev/null; sync").await;
    assert!(space_taken(&sandbox) >= 100);
    output(&sandbox, "c", "rm /big; sync").await;
    eventually(60, "the host has its space again", || match space_taken(&sandbox) {
        now if now < 50 => Ok(()),
        now => Err(format!("{now} MiB")),
    });

    let fill = "dd if=/dev/zero of=/full bs=1M count=1100 2>&1";
    let full = sandbox.exec(exec("c", &["sh", "-c", fill])).await.unwrap();
    assert!(full.status != 0 && full.output.contains("No space left on device"), "{}", full.output);
    output(&sandbox, "c", "sync").await;
    let taken = space_taken(&sandbox);
    assert!((900..=1024).contains(&taken), "a disk of 1 GiB takes {taken} MiB");
    output(&sandbox, "c", "rm /full && echo on >/more && sync && cat /more").await;
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}
