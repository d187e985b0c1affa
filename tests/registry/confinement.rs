//! What a worker has while it reads an image.

use std::fs;
use std::path::{Path, PathBuf};

use cloud_tests::eventually;
use cloud_tests::registry::{Layout, Registry, free_port, noise};
use cloud_tests::sandboxes::workers;
use cloud_tests::throttled::Throttled;

use super::store;

const MEBIBYTE: u64 = 1 << 20;
const NAMESPACES: [&str; 6] = ["user", "pid", "net", "mnt", "ipc", "uts"];

/// The value of a field of a process's status.
fn field(process: &Path, name: &str) -> Option<String> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The processes that read images for this one: each is the child of one that it has started.
fn readers() -> Vec<PathBuf> {
    let all: Vec<PathBuf> = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).collect();
    let children = |of: &str| {
        let is_child = |process: &&PathBuf| {
            field(process, "PPid").as_deref() == Some(of)
                && field(process, "Name").as_deref() == Some("kata-worker")
        };
        all.iter().filter(is_child).cloned().collect::<Vec<_>>()
    };
    let started = children(&std::process::id().to_string());
    started.iter().flat_map(|process| children(process.file_name().unwrap().to_str().unwrap())).collect()
}

/// Looks at one that waits for a slow registry. It is confined before it reads anything.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_worker_has_no_rights_and_is_alone() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/noise", &noise(8 * MEBIBYTE)), "app:1", &[]);
    let port = free_port();
    let _slow = Throttled::start(port, &registry.address(), MEBIBYTE as usize);
    let address = format!("127.0.0.1:{port}");
    let here = store(&address, Vec::new());
    let name = format!("{address}/app:1");
    let look = tokio::task::spawn_blocking(|| {
        eventually(30, "a worker is confined", || {
            let confined = |process: &Path| field(process, "Seccomp").as_deref() == Some("2");
            readers()
                .into_iter()
                .find(|process| confined(process))
                .map(|process| assert_confined(&process))
                .ok_or(String::new())
        });
    });
    let pull = here.pull(&name);
    let (looked, pulled) = tokio::join!(look, pull);
    looked.unwrap();
    assert!(pulled.unwrap().size > 8 * MEBIBYTE);
}

fn assert_confined(process: &Path) {
    for namespace in NAMESPACES {
        let of = |process: PathBuf| fs::read_link(process.join("ns").join(namespace)).unwrap();
        assert_ne!(of(process.to_owned()), of("/proc/self".into()), "{namespace}");
    }
    let user = workers().user.to_string();
    assert_eq!(field(process, "Uid").unwrap(), [user.as_str(); 4].join(" "));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(process, set).unwrap(), "0000000000000000", "{set}");
    }
    assert_eq!(
        (field(process, "NoNewPrivs").unwrap(), field(process, "Groups").unwrap()),
        ("1".into(), String::new())
    );
    let users = fs::read_to_string(process.join("uid_map")).unwrap();
    assert_eq!(users.split_whitespace().collect::<Vec<_>>(), [user.as_str(), user.as_str(), "1"]);
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    // The 19th field, counted from the third, which follows the name.
    assert_eq!(stat.rsplit(") ").next().unwrap().split(' ').nth(16), Some("19"), "behind all others");
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(limit("Max address space"), workers().memory);
    assert_eq!((limit("Max processes"), limit("Max core file size")), (1024, 0));
}
