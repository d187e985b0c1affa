//! What comes between a pull and its end.

use std::path::Path;
use std::process::{Command, Stdio};

use cloud_tests::registry::{Layout, Registry, free_port, noise};
use cloud_tests::sandboxes::workers;
use cloud_tests::throttled::Throttled;
use cloud_tests::{Process, eventually, top};
use image::{ImageReference, PullPolicy, RegistryOptions, Store};

const MEBIBYTE: u64 = 1 << 20;

/// A file system of a few MiB, as long as its owner.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn new(folder: &'a Path, mebibytes: u64) -> Self {
        mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], folder);
        Self(folder)
    }

    fn grow(&self, mebibytes: u64) {
        mount(&["-o", &format!("remount,size={mebibytes}m")], self.0);
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg(self.0).status().unwrap();
        assert!(ended.success() || std::thread::panicking());
    }
}

fn mount(arguments: &[&str], folder: &Path) {
    assert!(Command::new("mount").args(arguments).arg(folder).status().unwrap().success());
}

/// A store in `folder` that may use plain HTTP with `registry`.
pub fn open(folder: &Path, registry: &str) -> Store {
    let plain_http = vec![registry.to_owned()];
    super::open(folder, RegistryOptions { plain_http, ..RegistryOptions::default() }, workers())
}

/// Waits until a folder has no files.
pub fn comes_to_be_empty(folder: &Path) {
    eventually(20, "nothing is left", || match files(folder) {
        none if none.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

/// Names of files below a folder.
pub fn files(folder: &Path) -> Vec<String> {
    let found = Command::new("find").arg(folder).args(["-type", "f"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_full_disk_is_said_and_leaves_nothing_and_a_retry_works() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/noise", &noise(8 * MEBIBYTE)), "app:1", &[]);
    let reference = ImageReference::parse(&format!("{}/app:1", registry.address()), None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Where a layer does not fit, and where it fits but its content does not fit beside it.
    for mebibytes in [6, 13] {
        let disk = SmallDisk::new(folder.path(), mebibytes);
        let store = open(folder.path(), &registry.address());
        let pull = async || store.image(&reference, PullPolicy::Always, None, store.progress()).await;
        let error = pull().await.unwrap_err().to_string();
        assert!(error.contains("No space left on device") && error.contains("app:1"), "{error}");
        comes_to_be_empty(folder.path());
        disk.grow(64);
        assert!(pull().await.unwrap().size > 8 * MEBIBYTE);
    }
}

#[test]
#[ignore = "needs docker-registry; tests/run installs it"]
fn a_log_that_cannot_be_written_stops_nothing() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox(), "app:1", &[]);
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("zun.conf");
    std::fs::write(&configuration, super::configuration(folder.path(), &registry.address())).unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut pull = Command::new(top().join("target/release/zun-kata-compute"));
    pull.arg("--config-file").arg(configuration).args([
        "images",
        "pull",
        &format!("{}/app:1", registry.address()),
    ]);
    let status = pull.env("RUST_LOG", "debug").stderr(full).status().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_pull_that_is_killed_leaves_what_the_next_start_removes() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/noise", &noise(8 * MEBIBYTE)), "app:1", &[]);
    let port = free_port();
    let _slow = Throttled::start(port, &registry.address(), MEBIBYTE as usize);
    let address = format!("127.0.0.1:{port}");
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("zun.conf");
    std::fs::write(&configuration, super::configuration(folder.path(), &address)).unwrap();
    let images = folder.path().join("images");
    let temporary = images.join("tmp");
    let mut pull = Command::new(top().join("target/release/zun-kata-compute"));
    pull.arg("--config-file").arg(configuration).args(["images", "pull", &format!("{address}/app:1")]);
    let pull = Process::start(pull.stdout(Stdio::null()).stderr(Stdio::null()));
    eventually(30, "layers are on their way", || match std::fs::read_dir(&temporary).map(Iterator::count) {
        Ok(1..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(pull);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1, "it was killed");

    let store = open(&images, &address);
    store.remove_leftovers().unwrap();
    assert_eq!(files(&images), Vec::<String>::new());
    let reference = ImageReference::parse(&format!("{address}/app:1"), None).unwrap();
    let image = store.image(&reference, PullPolicy::Always, None, store.progress()).await.unwrap();
    assert!(image.size > 8 * MEBIBYTE && std::fs::read_dir(temporary).unwrap().count() == 0);
}
