//! Power that fails while an image is pulled, at any time of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use cloud_tests::registry::{Layout, Registry, free_port, noise};
use cloud_tests::throttled::Throttled;
use cloud_tests::{Process, eventually, python, top};
use image::{Error, Finding, Store};
use tempfile::TempDir;

use super::failures::{files, open};

const MEBIBYTE: u64 = 1 << 20;
const CUTS: u32 = 12;

/// The ioctl after which ext4 writes no more, not even its journal (`EXT4_IOC_SHUTDOWN`, `EXT4_GOING_FLAGS_NOLOGFLUSH`).
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A disk with a file system of its own.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new() -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        File::create(disk.image()).unwrap().set_len(256 * MEBIBYTE).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()));
        std::fs::create_dir(disk.root()).unwrap();
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.root()));
    }

    fn cut_power(&self) {
        run(Command::new(python()).args(["-c", CUT]).arg(self.root()));
    }

    /// Mounts it as after a start of the machine.
    fn start_again(&self) {
        // What the machine's processes still do takes a moment to fail.
        eventually(30, "nobody has it open", || {
            let ended = Command::new("umount").arg(self.root()).status().unwrap();
            if ended.success() { Ok(()) } else { Err(ended.to_string()) }
        });
        // A worker has the mount in a namespace of its own, and keeps the device until it has ended.
        eventually(30, "nobody has the device", || {
            let users = Command::new("losetup").arg("--associated").arg(self.image()).output().unwrap();
            if users.stdout.is_empty() { Ok(()) } else { Err(format!("{users:?}")) }
        });
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg(self.root()).status().unwrap();
        assert!(ended.success() || std::thread::panicking());
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn pull(state: &Path, registry: &str) -> Command {
    let configuration = state.join("zun.conf");
    let text = super::configuration(state, registry);
    std::fs::write(&configuration, text).unwrap();
    let mut pull = Command::new(top().join("target/release/zun-kata-compute"));
    pull.arg("--config-file").arg(configuration).args(["images", "pull", &format!("{registry}/app:1")]);
    pull.stdout(Stdio::null()).stderr(Stdio::null());
    pull
}

/// Panics unless all that the store names is as it was made.
async fn assert_whole(store: &Store, when: &str) -> usize {
    let mut seen = 0;
    let never = async |name: &str, _: File| {
        Err(Error::Fetch { image: name.to_owned(), reason: "nobody fetches here".into() })
    };
    let tell = |found: image::Scrubbed| {
        assert!(matches!(found.finding, Finding::Whole), "{when}: {found:?}");
        seen += 1;
    };
    image::scrub(store, never, tell).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn power_that_fails_at_any_time_of_a_pull_leaves_nothing_that_is_half_there() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/noise", &noise(4 * MEBIBYTE)), "app:1", &[]);
    let port = free_port();
    let _slow = Throttled::start(port, &registry.address(), 8 * MEBIBYTE as usize);
    let address = format!("127.0.0.1:{port}");

    let disk = Disk::new();
    let began = Instant::now();
    run(&mut pull(&disk.root(), &address));
    let whole = began.elapsed();
    drop(disk);

    for cut in 1..=CUTS {
        let disk = Disk::new();
        let began = Instant::now();
        let process = Process::start(&mut pull(&disk.root(), &address));
        // The last cuts come just before and just after its end.
        let at = whole * cut / (CUTS - 1);
        std::thread::sleep(at.saturating_sub(began.elapsed()));
        disk.cut_power();
        drop(process);
        let when = format!("power failed after {at:?} of {whole:?}");
        pull_after_power_cut(&disk, &registry.address(), &when).await;
    }
    // What was said to be there stays.
    let disk = Disk::new();
    run(&mut pull(&disk.root(), &address));
    disk.cut_power();
    assert_eq!(pull_after_power_cut(&disk, &registry.address(), "power failed after its end").await, 1);
}

/// Gives how many images were left, all of them whole.
async fn pull_after_power_cut(disk: &Disk, registry: &str, when: &str) -> usize {
    disk.start_again();
    let images = disk.root().join("images");
    let store = open(&images, registry);
    store.remove_leftovers().unwrap();
    let left = assert_whole(&store, when).await;
    run(&mut pull(&disk.root(), registry));
    let all = assert_whole(&store, &format!("{when}, pulled again")).await;
    assert_eq!(all, 1, "{when}");
    assert_eq!(files(&images.join("tmp")), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(images.join("rootfs")).unwrap().count(), 1, "{when}");
    left
}
