//! The server: which request is for what, and who may make it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::ContainerUuid;
use sandbox::{Host, Interact, WindowSize};
use serde_json::json;
use soketto::handshake::http::Server as Handshake;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::{notice_loss, peer};
use super::relay;
use super::sessions::{ExecId, Resized, Sessions, Token};
use super::tls;
use crate::containers::background_span;
use crate::counted::{Counted, One};
use crate::options::{ConfigError, Docker};

/// How long a client may take to ask.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at one time.
const CONNECTIONS_MAX: usize = 4096;
/// Connections of one peer that lead to no process yet. The proxy of all users is one peer.
const CONNECTIONS_OF_A_PEER_MAX: usize = 1024;
/// Connections to processes. Each takes two descriptors, of which the service has 65,536.
const RELAYS_MAX: usize = 8192;
/// Connections to the processes of one container.
const CONNECTIONS_TO_A_CONTAINER_MAX: usize = 64;
/// What Docker's own client takes for its version of the API.
const API_VERSION: &str = "1.40";

type Answer = Response<Full<Bytes>>;

struct Console {
    host: Host,
    sessions: Arc<Sessions>,
    relays: Arc<Semaphore>,
    containers: Counted<ContainerUuid>,
}

/// A connection to a process, which counts while it lasts.
struct Relay {
    _of_host: OwnedSemaphorePermit,
    _of_container: One<ContainerUuid>,
}

/// A refusal: a status and, in Docker's form, the reason.
struct Refused(StatusCode, String);

impl From<sandbox::Error> for Refused {
    fn from(error: sandbox::Error) -> Self {
        Self(StatusCode::CONFLICT, error.to_string())
    }
}

/// Listens where `[docker]` says, until the service ends.
pub async fn serve(docker: &Docker, host: Host, sessions: Arc<Sessions>) -> Result<(), ConfigError> {
    let tls = docker.tls()?.map(|files| tls::acceptor(&files)).transpose()?;
    let (address, port) = (docker.remote_api_host(), docker.docker_remote_api_port);
    let listener = TcpListener::bind((address, port)).await;
    let listener = listener.map_err(|e| {
        let option = "[docker] docker_remote_api_host, docker_remote_api_port";
        ConfigError::of(option, format!("{address}, {port}: {e}"))
    })?;
    match &tls {
        Some(_) => tracing::info!("consoles are at {address} port {port}, with TLS"),
        None => tracing::warn!(
            "consoles are at {address} port {port} without TLS, as [docker] cert_file is not set: whoever sees that network's \
             traffic sees what passes"
        ),
    }
    let relays = Arc::new(Semaphore::new(RELAYS_MAX));
    let console = Arc::new(Console { host, sessions, relays, containers: Counted::default() });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let peers = Counted::default();
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let Ok((stream, address)) = listener.accept().await else {
                // Out of descriptors, most likely: others are about to be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(connected) = peers.enter(peer(address.ip()), CONNECTIONS_OF_A_PEER_MAX) else {
                continue;
            };
            let (console, tls) = (Arc::clone(&console), tls.clone());
            tokio::spawn(async move {
                let _counted = (permit, connected);
                if let Err(e) = console.connection(stream, tls).await {
                    tracing::debug!(error = %e, "a client of the consoles left");
                }
            });
        }
    });
    Ok(())
}

impl Console {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // Keys are few bytes each.
        stream.set_nodelay(true)?;
        notice_loss(&stream)?;
        let Some(tls) = tls else { return self.http(stream).await };
        let stream = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)).await??;
        self.http(stream).await
    }

    async fn http(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let service = service_fn(|request| {
            let console = Arc::clone(&self);
            async move { Ok::<_, Infallible>(console.answer(request).await.unwrap_or_else(Refused::answer)) }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        Ok(server.serve_connection(TokioIo::new(stream), service).with_upgrades().await?)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Refused> {
        let path = request.uri().path().to_owned();
        let words: Vec<&str> = path.split('/').skip(1).collect();
        match (request.method(), words.as_slice()) {
            (&Method::GET, [_, "containers", id, "attach", "ws"]) => self.attach(request, id).await,
            (&Method::GET, [token, "version"] | [token, _, "version"]) if self.expects(token) => Ok(
                json_answer(StatusCode::OK, &json!({ "ApiVersion": API_VERSION, "MinAPIVersion": "1.24" })),
            ),
            (&Method::POST, [token, _, "exec", id, "start"]) => self.start(request, token, id).await,
            (&Method::POST, [token, _, "exec", id, "resize"]) if self.owns(token, id) => {
                self.resize(&request, id).await
            }
            _ => Err(Refused(StatusCode::NOT_FOUND, "page not found".into())),
        }
    }

    fn expects(&self, token: &str) -> bool {
        token.parse::<Token>().is_ok_and(|token| self.sessions.expects(&token))
    }

    fn owns(&self, token: &str, id: &str) -> bool {
        token.parse::<Token>().is_ok_and(|token| self.sessions.owns(&token, &ExecId::named(id)))
    }

    async fn attach(&self, mut request: Request<Incoming>, id: &str) -> Result<Answer, Refused> {
        let mut handshake = Handshake::new();
        let response = handshake
            .receive_request(&request)
            .map_err(|e| Refused(StatusCode::BAD_REQUEST, format!("this is no websocket: {e}")))?;
        let token = query(&request, "token").and_then(|token| token.parse::<Token>().ok());
        let uuid = id.parse().map_err(|_| forbidden())?;
        let connected = self.connected(uuid)?;
        if !token.is_some_and(|token| self.sessions.attach(&token, uuid)) {
            return Err(forbidden());
        }
        let connection = self.host.sandbox(id).attach_to(id).await?;
        let upgrade = hyper::upgrade::on(&mut request);
        let span = background_span(uuid);
        let relay = async move {
            let _connected = connected;
            match upgrade.await {
                Ok(upgraded) => relay::websocket(handshake, upgraded, connection).await,
                Err(e) => Err(std::io::Error::other(e)),
            }
        };
        spawn(span, "attached", relay);
        Ok(response.map(|()| Full::default()))
    }

    async fn start(&self, mut request: Request<Incoming>, token: &str, id: &str) -> Result<Answer, Refused> {
        if request.headers().get(UPGRADE).is_none() {
            let reason = "an exec is started with the header Upgrade: tcp";
            return Err(Refused(StatusCode::BAD_REQUEST, reason.into()));
        }
        let (token, id) = (token.parse().map_err(|_| forbidden())?, ExecId::named(id));
        let exec = self.sessions.start(&token, &id).ok_or_else(forbidden)?;
        let started = self.interact(*exec, &id).await;
        let (connection, span, connected) = started.inspect_err(|_| self.sessions.end(&id))?;
        let upgrade = hyper::upgrade::on(&mut request);
        let sessions = Arc::clone(&self.sessions);
        let relay = async move {
            let relayed = match upgrade.await {
                Ok(upgraded) => relay::raw(upgraded, connection).await,
                Err(e) => Err(std::io::Error::other(e)),
            };
            sessions.end(&id);
            drop(connected);
            relayed
        };
        spawn(span, "exec", relay);
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.docker.raw-stream"));
        Ok(response)
    }

    async fn interact(
        &self,
        exec: Interact,
        id: &ExecId,
    ) -> Result<(sandbox::Connection, tracing::Span, Relay), Refused> {
        let container = exec.exec.container.clone();
        let uuid = container.parse().map_err(|_| forbidden())?;
        let connected = self.connected(uuid)?;
        let span = background_span(uuid);
        span.in_scope(|| tracing::info!(exec = %id, "an interactive exec begins"));
        Ok((self.host.sandbox(&container).interact(exec).await?, span, connected))
    }

    fn connected(&self, container: ContainerUuid) -> Result<Relay, Refused> {
        let too_many = |whose: String, most: usize| {
            Refused(StatusCode::TOO_MANY_REQUESTS, format!("{whose} has {most} connections already"))
        };
        let of_container = self.containers.enter(container, CONNECTIONS_TO_A_CONTAINER_MAX);
        let of_container = of_container
            .ok_or_else(|| too_many(format!("container {container}"), CONNECTIONS_TO_A_CONTAINER_MAX))?;
        let relay = Arc::clone(&self.relays).try_acquire_owned();
        let relay = relay.map_err(|_| too_many("this host".into(), RELAYS_MAX))?;
        Ok(Relay { _of_host: relay, _of_container: of_container })
    }

    async fn resize(&self, request: &Request<Incoming>, id: &str) -> Result<Answer, Refused> {
        let characters = |name| query(request, name)?.parse().ok();
        let (Some(rows), Some(columns)) = (characters("h"), characters("w")) else {
            return Err(Refused(StatusCode::BAD_REQUEST, "h and w are numbers of characters".into()));
        };
        let resized = self.sessions.resize(&ExecId::named(id), WindowSize { rows, columns });
        match resized.map_err(|e| Refused(StatusCode::NOT_FOUND, e.to_string()))? {
            Resized::Remembered => {}
            Resized::Runs(container) => {
                let container = container.to_string();
                let sandbox = self.host.sandbox(&container);
                sandbox
                    .resize_terminal(&container, Some(id.to_owned()), WindowSize { rows, columns })
                    .await?;
            }
        }
        Ok(Response::new(Full::default()))
    }
}

fn spawn(
    span: tracing::Span,
    what: &'static str,
    relay: impl Future<Output = std::io::Result<()>> + Send + 'static,
) {
    use tracing::Instrument;
    let relay = async move {
        match relay.await {
            Ok(()) => tracing::info!(what, "the connection has ended"),
            Err(e) => tracing::info!(what, error = %e, "the connection has ended"),
        }
    };
    tokio::spawn(relay.instrument(span));
}

impl Refused {
    fn answer(self) -> Answer {
        json_answer(self.0, &json!({ "message": self.1 }))
    }
}

fn forbidden() -> Refused {
    let reason = "this address has served its purpose, or never had one: ask for a new connection";
    Refused(StatusCode::FORBIDDEN, reason.into())
}

fn json_answer(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Values that are asked for need no decoding: they are digits and letters.
fn query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}
