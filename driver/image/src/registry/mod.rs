//! A registry (OCI distribution specification 1.1), as far as images are fetched from it. Whatever it sends has a bound, and
//! wherever it leads is looked at.

mod challenge;
mod location;
mod token;

use std::fmt;
use std::time::Duration;

use image_work::{Digest, Digester};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::options::{Credentials, RegistryOptions};
use crate::reference::ImageReference;
use challenge::Challenge;
use location::may_lead;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for an answer, and for each further piece of it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 5;
/// Most bytes of an error's description that are read, and that are told.
const ERROR_MAX: u64 = 64 << 10;
const MESSAGE_MAX: usize = 300;
/// Registries whose tokens another host gives.
const AUTH_HOSTS: [(&str, &str); 2] =
    [("docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// A repository at a registry or its mirror.
pub struct Registry {
    http: Client,
    base: Url,
    repository: String,
    /// Whose images a mirror is asked for.
    namespace: Option<String>,
    credentials: Option<Credentials>,
    /// Hosts that may give tokens for this registry, beside its own.
    auth_hosts: Vec<String>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// Why a registry does not give what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// It has no such thing.
    NotFound,
    /// It has it for others.
    Unauthorized,
    /// There is no connection to it.
    Unreachable(String),
    /// It answers with an error, or with nonsense.
    Answer(String),
    /// What it sends has another digest than it should have.
    Digest(Digest),
    /// What it sends cannot be kept.
    Store(std::io::Error),
}

type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("not found"),
            Self::Unauthorized => f.write_str("not authorized"),
            Self::Unreachable(reason) | Self::Answer(reason) => f.write_str(reason),
            Self::Digest(found) => write!(f, "another digest, {found}"),
            Self::Store(e) => e.fmt(f),
        }
    }
}

impl Failure {
    fn of(error: reqwest::Error) -> Self {
        let reason = innermost(&error);
        if error.is_connect() { Self::Unreachable(reason) } else { Self::Answer(reason) }
    }
}

impl Registry {
    /// The repository of `reference`, which is asked for with `credentials`.
    pub fn new(
        reference: &ImageReference,
        options: &RegistryOptions,
        credentials: Option<&Credentials>,
    ) -> Result<Self> {
        let host = reference.host();
        let is_plain = options.plain_http.iter().any(|plain| plain == host);
        let base = format!("{}://{host}/v2/", if is_plain { "http" } else { "https" });
        let base = Url::parse(&base).map_err(|e| Failure::Answer(format!("{base}: {e}")))?;
        let known = AUTH_HOSTS.iter().filter(|(registry, _)| *registry == reference.registry());
        let given = options.auth_hosts.iter().filter(|one| one.registry == reference.registry());
        let auth_hosts = known.map(|(_, host)| (*host).to_owned()).chain(given.map(|one| one.host.clone()));
        Ok(Self {
            http: client(options).map_err(Failure::of)?,
            base,
            repository: reference.repository().to_owned(),
            namespace: reference.namespace().map(str::to_owned),
            credentials: credentials.cloned(),
            auth_hosts: auth_hosts.collect(),
            authorization: Mutex::default(),
        })
    }

    /// A manifest, by its tag or digest, of one of these media types and at most `limit` bytes.
    pub async fn manifest(&self, name: &str, media_types: &[&str], limit: u64) -> Result<(String, Vec<u8>)> {
        let answer = self.get(&format!("manifests/{name}"), Some(&media_types.join(", "))).await?;
        let media_type = answer.headers().get(reqwest::header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        Ok((media_type, read(answer, limit).await?))
    }

    /// Writes a blob of at most `size` bytes to `out`, and makes sure of its digest.
    pub async fn blob(&self, digest: &Digest, size: u64, mut out: impl AsyncWrite + Unpin) -> Result<()> {
        let mut answer = self.get(&format!("blobs/{digest}"), None).await?;
        let (mut found, mut left) = (Digester::default(), size);
        while let Some(piece) = answer.chunk().await.map_err(Failure::of)? {
            let more = || Failure::Answer("it sends more data than was announced".into());
            left = left.checked_sub(piece.len() as u64).ok_or_else(more)?;
            found.add(&piece);
            out.write_all(&piece).await.map_err(Failure::Store)?;
        }
        out.flush().await.map_err(Failure::Store)?;
        let found = found.finish();
        if found == *digest { Ok(()) } else { Err(Failure::Digest(found)) }
    }

    async fn get(&self, path: &str, accept: Option<&str>) -> Result<Response> {
        let known = self.authorization.lock().await.clone();
        let answer = self.send(path, accept, known.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return checked(answer).await;
        }
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            headers.filter_map(|header| header.to_str().ok()).flat_map(challenge::parse).collect();
        let authorization = self.authorized(&challenges, known).await?;
        checked(self.send(path, accept, Some(&authorization)).await?).await
    }

    async fn send(
        &self,
        path: &str,
        accept: Option<&str>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response> {
        let url = self.base.join(&format!("{}/{path}", self.repository));
        let mut request = self.http.get(url.map_err(|e| Failure::Answer(e.to_string()))?);
        if let Some(namespace) = &self.namespace {
            request = request.query(&[("ns", namespace)]);
        }
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(Failure::of)
    }

    /// Authorizes anew after `refused`. Concurrent callers share the result.
    async fn authorized(
        &self,
        challenges: &[Challenge],
        refused: Option<HeaderValue>,
    ) -> Result<HeaderValue> {
        let mut current = self.authorization.lock().await;
        if let Some(newer) = current.as_ref().filter(|newer| Some(*newer) != refused.as_ref()) {
            return Ok(newer.clone());
        }
        let bearer = challenges.iter().find(|one| matches!(one, Challenge::Bearer { .. }));
        let authorization = match bearer.or(challenges.first()) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                self.token(realm, service.as_deref(), scope.as_deref()).await?
            }
            Some(Challenge::Basic) => self.basic().ok_or(Failure::Unauthorized)?,
            None => return Err(Failure::Unauthorized),
        };
        *current = Some(authorization.clone());
        Ok(authorization)
    }

    fn basic(&self) -> Option<HeaderValue> {
        let Credentials { username, password, .. } = self.credentials.as_ref()?;
        let request = self.http.get(self.base.clone()).basic_auth(username, Some(password)).build().ok()?;
        request.headers().get(AUTHORIZATION).cloned()
    }
}

/// The cause at the bottom of an error, which says what went wrong.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// What is at `url`, of at most `limit` bytes, without credentials.
pub async fn document(url: Url, options: &RegistryOptions, limit: u64) -> Result<Vec<u8>> {
    let answer = client(options).map_err(Failure::of)?.get(url).send().await.map_err(Failure::of)?;
    read(checked(answer).await?, limit).await
}

fn client(options: &RegistryOptions) -> reqwest::Result<Client> {
    let certificates = options.certificates.iter().map(|pem| Certificate::from_pem_bundle(pem));
    let certificates = certificates.collect::<reqwest::Result<Vec<_>>>()?;
    let policy = redirect::Policy::custom(|attempt| match attempt.previous().last() {
        _ if attempt.previous().len() > REDIRECTS_MAX => attempt.error("too many redirects"),
        Some(from) if may_lead(from, attempt.url()) => attempt.follow(),
        _ => {
            let reason =
                format!("it redirects to {}, which is not encrypted, or this host's own", attempt.url());
            attempt.error(reason)
        }
    });
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(policy)
        .tls_certs_merge(certificates.into_iter().flatten())
        .user_agent(concat!("zun-kata-compute/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The whole answer, of at most `limit` bytes.
async fn read(mut answer: Response, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(Failure::of)? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Failure::Answer(format!("it answers with more than {limit} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What a registry says of an error (OCI distribution specification, "Error Codes").
#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    errors: Vec<Described>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Described {
    code: String,
    message: String,
}

async fn checked(answer: Response) -> Result<Response> {
    let status = answer.status();
    match status.as_u16() {
        200..=299 => Ok(answer),
        404 => Err(Failure::NotFound),
        401 | 403 => Err(Failure::Unauthorized),
        _ => {
            let body = read(answer, ERROR_MAX).await.unwrap_or_default();
            let described = serde_json::from_slice::<Errors>(&body).unwrap_or_default().errors;
            let is_missing = |one: &Described| {
                ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"].contains(&one.code.as_str())
            };
            if described.iter().any(is_missing) {
                return Err(Failure::NotFound);
            }
            let said = described.iter().map(|one| format!(": {} {}", one.code, one.message));
            let text: String =
                format!("{status}{}", said.collect::<String>()).chars().take(MESSAGE_MAX).collect();
            Err(Failure::Answer(text))
        }
    }
}
