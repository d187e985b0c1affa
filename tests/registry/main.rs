//! `image` against a real registry.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::path::Path;
use std::sync::Arc;

use cloud_tests::registry::{Layout, Registry, User, corrupt, free_port, noise};
use cloud_tests::tls::Front;
use image::{Credentials, Error, Image, ImageReference, PullPolicy, RegistryOptions, Store};
use tempfile::TempDir;
use wire::Cutting;

const USER: User = User { name: "grace", password: "hop-per" };
const GIBIBYTE: u64 = 1 << 30;

struct Here {
    folder: TempDir,
    store: Arc<Store>,
}

/// A store that may use plain HTTP with `registry`.
fn store(registry: &str, certificates: Vec<Vec<u8>>) -> Here {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let options =
        RegistryOptions { plain_http: vec![registry.to_owned()], certificates, image_bytes_max: GIBIBYTE };
    let store = Arc::new(Store::open(folder.path().join("images"), options).unwrap());
    Here { folder, store }
}

impl Here {
    async fn pull(&self, name: &str) -> Result<Image, Error> {
        self.image(name, PullPolicy::Always, None).await
    }

    async fn image(
        &self,
        name: &str,
        policy: PullPolicy,
        user: Option<&Credentials>,
    ) -> Result<Image, Error> {
        self.store.image(&ImageReference::parse(name, None)?, policy, user).await
    }

    /// Files of the store, without those that are there from the first.
    fn files(&self) -> Vec<String> {
        fn visit(folder: &Path, files: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    visit(&entry.path(), files);
                } else {
                    files.push(entry.path().display().to_string());
                }
            }
        }
        let mut files = Vec::new();
        visit(self.folder.path(), &mut files);
        files
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn an_image_is_pulled_once_by_many_and_then_known() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/x", b"x"), "app:1", &[]);
    let here = Arc::new(store(&registry.address(), Vec::new()));
    let name = format!("{}/app:1", registry.address());
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (here, name) = (Arc::clone(&here), name.clone());
        pulls.spawn(async move { here.pull(&name).await.unwrap().rootfs });
    }
    let files = pulls.join_all().await;
    assert!(files.iter().all(|file| *file == files[0] && file.exists()));
    let log = registry.log();
    let layers = log.matches("GET /v2/app/blobs/").count();
    assert_eq!(layers, 3, "one configuration and two layers: {log}");
    drop(registry);
    let known = here.image(&name, PullPolicy::IfNotPresent, None).await.unwrap();
    assert_eq!(known.rootfs, files[0]);
    assert!(here.image(&name, PullPolicy::Never, None).await.is_ok());
    assert!(matches!(here.pull(&name).await, Err(Error::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn what_is_in_the_image_is_in_its_file_system() {
    let registry = Registry::anywhere();
    let image = Layout::busybox().with_file("/new", b"new").with_file("/old", b"old").without("/old");
    registry.push(&image, "gzip:1", &[]);
    registry.push(&image, "zstd:1", &["--dest-compress-format", "zstd"]);
    let here = store(&registry.address(), Vec::new());
    for name in ["gzip", "zstd"] {
        let image = here.pull(&format!("{}/{name}:1", registry.address())).await.unwrap();
        let unpacked = here.folder.path().join(name);
        let output = std::process::Command::new("rdsquashfs")
            .args(["-q", "-u", "/", "-p"])
            .args([&unpacked, &image.rootfs])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read(unpacked.join("new")).unwrap(), b"new");
        assert!(!unpacked.join("old").exists() && unpacked.join("bin/busybox").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn credentials_are_asked_for_and_checked() {
    let registry = Registry::start(free_port(), Some(&USER));
    registry.push(&Layout::busybox(), "app:1", &["--dest-creds", "grace:hop-per"]);
    let here = store(&registry.address(), Vec::new());
    let name = format!("{}/app:1", registry.address());
    let user = |password: &str| Credentials { username: USER.name.into(), password: password.into() };
    let wrong = here.image(&name, PullPolicy::Always, Some(&user("guess"))).await.unwrap_err();
    assert!(matches!(wrong, Error::Unauthorized { .. }), "{wrong}");
    assert!(matches!(here.pull(&name).await, Err(Error::Unauthorized { .. })));
    assert!(here.image(&name, PullPolicy::Always, Some(&user(USER.password))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_blob_that_was_changed_is_refused_and_leaves_nothing() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/x", &[7; 50_000]), "app:1", &[]);
    for blob in registry.blobs() {
        let good = std::fs::read(&blob).unwrap();
        corrupt(&blob);
        let here = store(&registry.address(), Vec::new());
        let error = here.pull(&format!("{}/app:1", registry.address())).await.unwrap_err();
        assert!(error.to_string().contains("app:1"), "{error}");
        assert_eq!(here.files(), Vec::<String>::new(), "after {error}");
        std::fs::write(&blob, good).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_download_that_breaks_off_leaves_nothing() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/noise", &noise(2_000_000)), "app:1", &[]);
    let cutting = Cutting::before(&registry.address(), 300_000).await;
    let here = store(&cutting.address(), Vec::new());
    let error = here.pull(&format!("{}/app:1", cutting.address())).await.unwrap_err();
    assert!(matches!(error, Error::Registry { .. }) && error.to_string().contains("app:1"), "{error}");
    assert_eq!(here.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn tls_is_verified_and_plain_http_is_not_guessed() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox(), "app:1", &[]);
    let tls = Front::before(&registry.address());
    let name = format!("{}/app:1", tls.address());
    let trusting = store("none", vec![std::fs::read(tls.authority()).unwrap()]);
    assert!(trusting.pull(&name).await.is_ok());
    let strict = store("none", Vec::new());
    let error = strict.pull(&name).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let plain = strict.pull(&format!("{}/app:1", registry.address())).await.unwrap_err();
    assert!(matches!(plain, Error::Unreachable { .. }), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn of_an_index_our_platform_is_taken() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox().with_file("/x", b"ours"), "app:amd64", &[]);
    registry.push(&Layout::busybox().configured(&["--architecture", "arm64"]), "app:arm64", &[]);
    wire::push_index(&registry.address(), "app", "both", &["arm64", "amd64"]).await;
    wire::push_index(&registry.address(), "app", "theirs", &["arm64"]).await;
    let here = store(&registry.address(), Vec::new());
    let direct = here.pull(&format!("{}/app:amd64", registry.address())).await.unwrap();
    let chosen = here.pull(&format!("{}/app:both", registry.address())).await.unwrap();
    assert_eq!(chosen.rootfs, direct.rootfs);
    let error = here.pull(&format!("{}/app:theirs", registry.address())).await.unwrap_err();
    assert!(error.to_string().contains("app:theirs"), "{error}");
    assert!(error.to_string().contains("amd64"), "{error}");
}
