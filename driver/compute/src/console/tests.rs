use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use model::ContainerUuid;
use sandbox::Host;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use uuid::Uuid;

use super::{Sessions, serve};
use crate::options::{Docker, Options};

/// An authority, and a certificate of it that serves both sides.
const MAKE: &str = "
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
echo subjectAltName=DNS:localhost >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem
";

struct Fixture {
    folder: tempfile::TempDir,
    sessions: Arc<Sessions>,
    docker: Docker,
}

impl Fixture {
    async fn serve(change: impl FnOnce(&mut Docker, &Path)) -> Self {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-ec", MAKE]).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut options = Options::default();
        options.kata.state_path = folder.path().join("state");
        options.docker.docker_remote_api_host = Some("127.0.0.1".into());
        // Somebody else may take it in the meantime; then this test says so.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        options.docker.docker_remote_api_port = free.local_addr().unwrap().port();
        drop(free);
        change(&mut options.docker, folder.path());
        let sessions = Arc::new(Sessions::new(Duration::from_secs(60)));
        let host = Host::new(options.host()).unwrap();
        serve(&options.docker, host, Arc::clone(&sessions)).await.unwrap();
        Self { folder, sessions, docker: options.docker }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.docker.docker_remote_api_port)).await.unwrap()
    }

    /// Asks over TLS, with a certificate or without one.
    async fn ask_over_tls(&self, with_certificate: bool, path: &str) -> std::io::Result<String> {
        let file = |name: &str| self.folder.path().join(name);
        let mut authorities = RootCertStore::empty();
        authorities.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(authorities);
        let config = if with_certificate {
            let chain = vec![CertificateDer::from_pem_file(file("cert.pem")).unwrap()];
            config
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(file("key.pem")).unwrap())
                .unwrap()
        } else {
            config.with_no_client_auth()
        };
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, self.connect().await).await?;
        ask(stream, path).await
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn with_tls(docker: &mut Docker, folder: &Path) {
    docker.ca_file = Some(folder.join("ca.pem"));
    docker.cert_file = Some(folder.join("cert.pem"));
    docker.key_file = Some(folder.join("key.pem"));
}

#[tokio::test]
async fn only_who_has_a_token_learns_anything() {
    let fixture = Fixture::serve(|_, _| {}).await;
    let token = fixture.sessions.expect_attach(ContainerUuid(Uuid::new_v4()));
    let version = ask(fixture.connect().await, &format!("/{token}/version")).await.unwrap();
    assert!(version.starts_with("HTTP/1.1 200") && version.contains("\"ApiVersion\":\"1.40\""), "{version}");
    for path in ["/version", "/guessed/version", "/containers/json", "/"] {
        let answer = ask(fixture.connect().await, path).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let no_websocket = ask(fixture.connect().await, "/v1.40/containers/x/attach/ws").await.unwrap();
    assert!(no_websocket.starts_with("HTTP/1.1 400"), "{no_websocket}");
}

/// Words of the paths that are served, and a few more.
const WORDS: [&str; 10] =
    ["v1.40", "containers", "attach", "ws", "version", "exec", "start", "resize?h=1&w=2", "..", ""];

#[test]
fn whatever_is_asked_without_a_token_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::serve(|_, _| {}));
    let asked = bolero::generator::produce::<(u8, Vec<Result<u8, String>>, String, Vec<u8>)>();
    bolero::check!().with_generator(asked).for_each(|(method, words, header, rest)| {
        let word = |word: &Result<u8, String>| match word {
            Ok(known) => WORDS[usize::from(*known) % WORDS.len()].to_owned(),
            Err(any) => any.clone(),
        };
        let path = words.iter().map(word).collect::<Vec<_>>().join("/");
        let method = ["GET", "POST", "PUT"][usize::from(*method) % 3];
        // Neither ends the head, so that it is answered.
        let line = |text: &str| text.replace(['\r', '\n'], "");
        let mut request =
            format!("{method} /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUpgrade: tcp\r\n", line(&path));
        request += &format!("X: {}\r\n\r\n", line(header));
        let answer = runtime.block_on(async {
            let mut stream = fixture.connect().await;
            // It may be answered, and closed, before all is written.
            let _ = stream.write_all(&[request.as_bytes(), rest].concat()).await;
            let mut answer = Vec::new();
            let _ =
                tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
            answer
        });
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    });
}

#[tokio::test]
async fn with_tls_only_those_with_a_certificate_come_in() {
    let fixture = Fixture::serve(with_tls).await;
    let answer = fixture.ask_over_tls(true, "/").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(fixture.ask_over_tls(false, "/").await.is_err(), "a certificate is demanded");
    let plain = ask(fixture.connect().await, "/").await;
    assert!(plain.is_err() || !plain.unwrap().contains("HTTP"), "TLS is demanded");
}

#[tokio::test]
async fn a_file_that_holds_no_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut docker = Docker::default();
    with_tls(&mut docker, folder.path());
    std::fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    let error = super::tls::acceptor(&docker.tls().unwrap().unwrap()).err().unwrap().to_string();
    assert!(error.starts_with("[docker] ca_file: ") && error.contains("holds no certificate"), "{error}");
}
