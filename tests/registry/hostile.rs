//! Images and registries that are made to cost this host more than they are worth.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cloud_tests::registry::{Layout, Registry};
use cloud_tests::sandboxes::workers;
use cloud_tests::swelling::{depths, header, layer, names};
use image::{CredentialsOwner, Limits, PullPolicy, RegistryHost, RegistryOptions, TreeLimits, WorkerOptions};
use nix::sys::resource::{UsageWho, getrusage};
use tar::EntryType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Here, credentials, store_of, store_with};

const MEBIBYTE: u64 = 1 << 20;

/// Peak of the memory that any worker of this process has taken, in MiB.
fn worker_peak_mib() -> i64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() / 1024
}

fn own_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

fn here(registry: &Registry, options: WorkerOptions) -> Here {
    let plain_http = vec![registry.address()];
    store_of(RegistryOptions { plain_http, ..RegistryOptions::default() }, options)
}

/// What a pull of an image of one layer says that fails.
async fn refusal(layer: PathBuf, options: WorkerOptions) -> String {
    let registry = Registry::anywhere();
    registry.push(&Layout::of_layers(&[layer]), "bad:1", &[]);
    let here = here(&registry, options);
    let name = format!("{}/bad:1", registry.address());
    let error = here.pull(&name).await.unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
    here.comes_to_be_empty();
    error
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn a_small_image_does_not_become_large_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path(), |builder| {
        names(builder);
        depths(builder);
    });
    let registry = Registry::anywhere();
    registry.push(&Layout::of_layers(&[layer]), "small:1", &[]);
    let before = own_mib();
    let here = here(&registry, workers());
    let image = here.pull(&format!("{}/small:1", registry.address())).await.unwrap();
    println!(
        "{} bytes, the workers' peak {} MiB, own {} to {} MiB",
        image.size,
        worker_peak_mib(),
        before,
        own_mib()
    );
    assert!(own_mib() < before + 64, "it is read elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry; tests/run installs it"]
async fn what_takes_too_much_is_named_with_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let many = |folder: &Path| {
        layer(folder, |builder| {
            for number in 0..60_000 {
                let name = format!("{number:0>200}");
                builder.append_data(&mut header(EntryType::Regular, 0), name, std::io::empty()).unwrap();
            }
        })
    };
    let limited = |entries, metadata| {
        let tree = TreeLimits { entries, metadata };
        WorkerOptions { limits: Limits { tree, ..workers().limits }, ..workers() }
    };
    let usual = TreeLimits::default();
    for (options, expected) in [
        (limited(1000, usual.metadata), "more than 1000 entries"),
        (limited(usual.entries, 1 << 20), "more than 1048576 bytes"),
        (WorkerOptions { memory: 32 << 20, ..workers() }, "more than 32 MiB of memory"),
    ] {
        let error = refusal(many(folder.path()), options).await;
        assert!(error.contains(expected), "{error}");
    }

    let long = layer(folder.path(), |builder| {
        let size = 400 * MEBIBYTE;
        let mut header = header(EntryType::XHeader, size);
        header.set_path("x").unwrap();
        header.set_cksum();
        builder.append(&header, std::io::repeat(b'x').take(size)).unwrap();
    });
    let error = refusal(long, workers()).await;
    assert!(error.contains("a header has 419430400 bytes; the limit is 2097152"), "{error}");

    let zeros = layer(folder.path(), |builder| {
        let size = 900 * MEBIBYTE;
        builder
            .append_data(&mut header(EntryType::Regular, size), "zeros", std::io::repeat(0).take(size))
            .unwrap();
    });
    let error = refusal(zeros, WorkerOptions { seconds: 1, ..workers() }).await;
    assert!(error.contains("1 s of processor time"), "{error}");
}

/// Answers each request with what `answer` makes of it, and keeps what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

/// An answer: its head, and a body that is sent so often.
type Answer = (String, &'static [u8], u64);

impl Server {
    async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = client.read_u8().await else { return };
                        request.push(byte);
                    }
                    let request = String::from_utf8(request).unwrap();
                    let (head, body, times) = answer(&request);
                    kept.lock().unwrap().push(request);
                    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
                    let _ = client.write_all(head.as_bytes()).await;
                    for _ in 0..times {
                        if client.write_all(body).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, asked }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().concat()
    }
}

const ENDLESS: u64 = u64::MAX;
static BLANKS: [u8; 64 << 10] = [b' '; 64 << 10];

async fn pull(server: &Server, with_user: bool, auth_hosts: Vec<RegistryHost>) -> String {
    let plain_http = vec![server.address()];
    let here = store_with(RegistryOptions { plain_http, auth_hosts, ..RegistryOptions::default() });
    let user = with_user.then(|| credentials("secret", CredentialsOwner::User));
    let name = format!("{}/app:1", server.address());
    here.image(&name, PullPolicy::Always, user.as_ref()).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "part of the registry's tests, which tests/run runs"]
async fn an_answer_without_an_end_is_given_up() {
    let endless = Server::start(|_| {
        let head = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json".to_owned();
        (head, &BLANKS, ENDLESS)
    });
    let endless = endless.await;
    let before = own_mib();
    let error = pull(&endless, false, Vec::new()).await;
    assert!(error.contains("more than 4194304 bytes"), "{error}");

    let token = Server::start(|request| {
        if request.starts_with("GET /token") {
            return ("200 OK".to_owned(), &BLANKS, ENDLESS);
        }
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        (format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{host}/token\""), b"", 0)
    });
    let error = pull(&token.await, false, Vec::new()).await;
    assert!(error.contains("more than 1048576 bytes"), "{error}");

    let failing = Server::start(|_| ("500 Oh".to_owned(), &BLANKS, ENDLESS)).await;
    let error = pull(&failing, false, Vec::new()).await;
    assert!(error.contains("500"), "{error}");
    assert!(own_mib() < before + 64, "{} to {} MiB", before, own_mib());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "part of the registry's tests, which tests/run runs"]
async fn credentials_go_to_the_registry_and_whom_the_operator_names() {
    let thief = Arc::new(Server::start(|_| ("200 OK".to_owned(), b"{\"token\": \"t\"}", 1)).await);
    let realm = format!("http://{}/token", thief.address());
    let registry = Server::start(move |request| {
        if request.contains("authorization: Bearer t\r\n") {
            return ("404 Not Found".to_owned(), b"", 0);
        }
        (format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\""), b"", 0)
    });
    let registry = registry.await;
    let error = pull(&registry, true, Vec::new()).await;
    assert!(error.contains(&thief.address()) && error.contains("registry_auth_hosts"), "{error}");
    assert_eq!(thief.asked(), "", "nobody was told anything");

    let named = RegistryHost { registry: registry.address(), host: thief.address() };
    let error = pull(&registry, true, vec![named]).await;
    assert!(error.contains("could not be found"), "the token opens it: {error}");
    let asked = thief.asked();
    assert!(asked.contains("authorization: Basic ") && asked.contains("service=s"), "{asked}");
    assert!(asked.contains("scope=repository%3Aapp%3Apull"), "{asked}");

    // Who has no credentials gives none away.
    let error = pull(&registry, false, Vec::new()).await;
    assert!(error.contains("could not be found"), "{error}");
    assert!(!thief.asked.lock().unwrap().last().unwrap().contains("authorization"));
}
