//! `image` against a real registry.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod confinement;
mod failures;
mod hostile;
mod power_cut;
mod shapes;
mod wire;

use std::path::Path;
use std::sync::Arc;

use cloud_tests::registry::{Layout, Registry, User, corrupt, free_port, noise};
use cloud_tests::sandboxes::workers;
use cloud_tests::tls::Front;
use image::{
    Credentials, CredentialsOwner, Error, Finding, Image, ImageReference, PullPolicy, RegistryHost,
    RegistryOptions, Store, WorkerOptions,
};
use tempfile::TempDir;
use wire::Cutting;

const USER: User = User { name: "grace", password: "hop-per" };

struct Here {
    folder: TempDir,
    store: Arc<Store>,
}

/// A store that may use plain HTTP with `registry`.
fn store(registry: &str, certificates: Vec<Vec<u8>>) -> Here {
    store_with(RegistryOptions {
        plain_http: vec![registry.to_owned()],
        certificates,
        ..RegistryOptions::default()
    })
}

fn store_with(options: RegistryOptions) -> Here {
    store_of(options, workers())
}

fn store_of(options: RegistryOptions, workers: WorkerOptions) -> Here {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&folder.path().join("images"), options, workers));
    Here { folder, store }
}

fn open(folder: &Path, options: RegistryOptions, workers: WorkerOptions) -> Store {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Store::open(folder.to_owned(), options, workers).unwrap()
}

/// What the service's own program needs to keep images in `state`.
fn configuration(state: &Path, registry: &str) -> String {
    let worker = workers().program;
    let (state, worker) = (state.display(), worker.display());
    format!("[kata]\nstate_path = {state}\nworker = {worker}\ninsecure_registries = {registry}\n")
}

fn credentials(password: &str, owner: CredentialsOwner) -> Credentials {
    Credentials { username: USER.name.into(), password: password.into(), owner }
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
        self.store.image(&ImageReference::parse(name, None)?, policy, user, self.store.progress()).await
    }

    /// Waits until the store has no file: what a failure has left goes as soon as its worker has ended.
    fn comes_to_be_empty(&self) {
        failures::comes_to_be_empty(self.folder.path());
    }
}

/// What is in an image's file system, as files of this machine.
fn content(image: &Image) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("rdsquashfs")
        .args(["-q", "-T", "-X", "-C", "-O", "-u", "/", "-p"])
        .args([folder.path(), &image.rootfs])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
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
    registry.push(&image, "docker:1", &["--format", "v2s2"]);
    let here = store(&registry.address(), Vec::new());
    for name in ["gzip", "zstd", "docker"] {
        let image = here.pull(&format!("{}/{name}:1", registry.address())).await.unwrap();
        let unpacked = content(&image);
        assert_eq!(std::fs::read(unpacked.path().join("new")).unwrap(), b"new");
        assert!(!unpacked.path().join("old").exists() && unpacked.path().join("bin/busybox").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn an_image_is_named_by_its_digest() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox(), "app:1", &[]);
    let digest = registry.digest("app", "1");
    registry.push(&Layout::busybox().with_file("/x", b"x"), "app:1", &[]);
    let here = store(&registry.address(), Vec::new());
    let (pinned, newer) =
        (format!("{}/app@{digest}", registry.address()), format!("{}/app:1", registry.address()));
    let (pinned, newer) = (here.pull(&pinned).await.unwrap(), here.pull(&newer).await.unwrap());
    assert_ne!(pinned.id, newer.id);
    let missing = format!("{}/app@sha256:{}", registry.address(), "0".repeat(64));
    let error = here.pull(&missing).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_mirror_is_asked_first_and_passed_over_if_it_fails() {
    let (registry, mirror) = (Registry::anywhere(), Registry::anywhere());
    registry.push(&Layout::busybox(), "own:1", &[]);
    mirror.push(&Layout::busybox(), "app:1", &[]);
    let at = |registry: &str, host: &str| RegistryHost { registry: registry.into(), host: host.into() };
    let [gone, dead] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let app = format!("{gone}/app:1");
    let here = store_with(RegistryOptions {
        plain_http: vec![registry.address(), mirror.address(), gone.clone(), dead.clone()],
        mirrors: vec![
            at(&gone, &dead),
            at(&gone, &mirror.address()),
            at(&registry.address(), &mirror.address()),
        ],
        ..RegistryOptions::default()
    });
    let image = here.pull(&app).await.unwrap();
    assert!(mirror.log().contains(&format!("ns={}", gone.replace(':', "%3A"))), "{}", mirror.log());
    let known = here.image(&app, PullPolicy::Never, None).await.unwrap();
    assert_eq!(known.id, image.id);
    // The mirror does not have this one.
    here.pull(&format!("{}/own:1", registry.address())).await.unwrap();
    let unknown = here.pull(&format!("{gone}/none:1")).await.unwrap_err().to_string();
    assert!(unknown.contains(&gone), "the registry has the last word: {unknown}");
    // Credentials are for the registry, so no mirror is asked.
    let user = credentials(USER.password, CredentialsOwner::User);
    let asked = mirror.log().len();
    assert!(here.image(&app, PullPolicy::Always, Some(&user)).await.is_err());
    assert_eq!(mirror.log().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn what_is_damaged_is_found_and_made_again() {
    let registry = Registry::anywhere();
    registry.push(&Layout::busybox(), "app:1", &[]);
    registry.push(&Layout::busybox().with_file("/x", b"x"), "other:1", &[]);
    let here = store(&registry.address(), Vec::new());
    let name = |image: &str| format!("{}/{image}:1", registry.address());
    let (app, other) = (here.pull(&name("app")).await.unwrap(), here.pull(&name("other")).await.unwrap());
    let scrub = async || {
        let mut found = Vec::new();
        let fetch = async |name: &str, _| panic!("{name} is no archive");
        image::scrub(&here.store, fetch, |scrubbed| found.push(scrubbed)).await.unwrap();
        found.sort_by(|one, other| one.images.cmp(&other.images));
        let names: Vec<_> = found.iter().map(|one| one.images.concat()).collect();
        assert_eq!(names, [name("app"), name("other")]);
        found.into_iter().map(|one| one.finding).collect::<Vec<_>>()
    };
    assert!(matches!(scrub().await[..], [Finding::Whole, Finding::Whole]));

    let whole = std::fs::read(&app.rootfs).unwrap().len();
    corrupt(&app.rootfs);
    // The tag has moved on: what was pulled is made again, not what is newer.
    registry.push(&Layout::busybox().with_file("/y", b"y"), "app:1", &[]);
    assert!(matches!(scrub().await[..], [Finding::Healed, Finding::Whole]));
    assert_eq!(std::fs::read(&app.rootfs).unwrap().len(), whole);
    assert!(matches!(scrub().await[..], [Finding::Whole, Finding::Whole]));

    corrupt(&app.rootfs);
    std::fs::remove_file(&other.rootfs).unwrap();
    registry.forget("other");
    let [Finding::Healed, Finding::Damaged(error)] = &scrub().await[..] else { panic!("it had the other") };
    assert!(error.to_string().contains("other"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn credentials_are_asked_for_and_checked() {
    let registry = Registry::start(free_port(), Some(&USER));
    registry.push(&Layout::busybox(), "app:1", &["--dest-creds", "grace:hop-per"]);
    let here = store(&registry.address(), Vec::new());
    let name = format!("{}/app:1", registry.address());
    let user = |password: &str| credentials(password, CredentialsOwner::User);
    let wrong = here.image(&name, PullPolicy::Always, Some(&user("guess"))).await.unwrap_err();
    assert!(matches!(wrong, Error::Unauthorized { .. }), "{wrong}");
    assert!(matches!(here.pull(&name).await, Err(Error::Unauthorized { .. })));
    assert!(here.image(&name, PullPolicy::Always, Some(&user(USER.password))).await.is_ok());

    // That it is here opens it to nobody else.
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        for other in [None, Some(user("guess"))] {
            let refused = here.image(&name, policy, other.as_ref()).await;
            assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{policy:?} {other:?}");
        }
        assert!(here.image(&name, policy, Some(&user(USER.password))).await.is_ok());
    }
    // What the operator's credentials open is for all.
    let operator = credentials(USER.password, CredentialsOwner::Operator);
    assert!(here.image(&name, PullPolicy::Always, Some(&operator)).await.is_ok());
    assert!(here.image(&name, PullPolicy::Never, None).await.is_ok());
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
        here.comes_to_be_empty();
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
    here.comes_to_be_empty();
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
