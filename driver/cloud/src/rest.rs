use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::try_unfold;
use openstack::InterfaceType;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::http;
use crate::keystone::{Keystone, UserToken};
use crate::pace::at_pace;

/// Longest that a call takes whose answer is a document, from its sending to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the longest document that is read.
const ANSWER_MAX: usize = 16 << 20;
/// Bytes of an upload that are read at once.
const PIECE: usize = 64 << 10;

/// A section such as `[neutron_client]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClientOptions {
    /// `publicURL`, `internalURL` or `adminURL`.
    pub endpoint_type: String,
    /// keystoneauth's name for the same: `public`, `internal` or `admin`, the first of a list counts.
    pub valid_interfaces: String,
    /// Address to use in place of the catalogue's.
    pub endpoint_override: String,
}

impl ClientOptions {
    fn interface(&self) -> InterfaceType {
        let first = self.valid_interfaces.split(',').next().unwrap_or_default().trim();
        let wanted = if first.is_empty() { self.endpoint_type.as_str() } else { first };
        match wanted.trim_end_matches("URL") {
            "internal" => InterfaceType::Internal,
            "admin" => InterfaceType::Admin,
            _ => InterfaceType::Public,
        }
    }
}

/// A service's REST interface.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    keystone: Keystone,
    /// In whose name calls are made: the service's own for `None`.
    user: Option<UserToken>,
    service: &'static str,
    /// Its names in catalogues, the preferred ones first.
    service_types: &'static [&'static str],
    options: ClientOptions,
    /// Value of the `OpenStack-API-Version` header.
    microversion: Option<&'static str>,
    /// Whether calls carry a service token.
    as_service: bool,
}

/// No body to send.
pub(crate) const NOTHING: Option<&Value> = None;

impl Rest {
    pub fn new(
        keystone: Keystone,
        service: &'static str,
        service_types: &'static [&'static str],
        options: ClientOptions,
        microversion: Option<&'static str>,
    ) -> Self {
        Self { keystone, user: None, service, service_types, options, microversion, as_service: false }
    }

    /// The same in the name of a user.
    pub fn as_user(&self, token: UserToken) -> Self {
        Self { user: Some(token), ..self.clone() }
    }

    /// The same, with the service's token beside the caller's: it may do what only services may.
    pub fn into_service(self) -> Self {
        Self { as_service: true, ..self }
    }

    /// Sends a request and reads its answer. A token that the service refuses is renewed once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        self.call_within(TIMEOUT, method, path, body).await
    }

    /// The same for a request that may take longer to be answered: up to [`http::READ_TIMEOUT`].
    pub async fn call_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let bytes = self.bytes(timeout, method, path, body).await?;
        let bytes = if bytes.is_empty() { b"null" } else { &bytes[..] };
        serde_json::from_slice(bytes).map_err(|source| Error::Answer { service: self.service, source })
    }

    /// Sends a request without a body, and writes its answer to `out`, which may refuse to take more. A service that sends too
    /// slowly is an error.
    pub async fn download(&self, path: &str, out: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let mut response = self.send(Method::GET, path, |request| request).await?;
        let output = |source| Error::Output { service: self.service, source };
        let received = AtomicU64::new(0);
        let transfer = async {
            while let Some(chunk) = self.transport(response.chunk().await)? {
                out.write_all(&chunk).await.map_err(output)?;
                received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            out.flush().await.map_err(output)
        };
        at_pace(&received, transfer).await.unwrap_or(Err(Error::Slow { service: self.service }))
    }

    /// Sends changes of a media type of their own.
    pub async fn patch(&self, path: &str, media_type: &'static str, changes: &Value) -> Result<()> {
        let complete =
            |request: RequestBuilder| request.timeout(TIMEOUT).header(CONTENT_TYPE, media_type).json(changes);
        self.send(Method::PATCH, path, complete).await.map(drop)
    }

    /// Sends a file from its current position. It is sent once: a token that is refused is an error, as is a service that takes
    /// the file too slowly.
    pub async fn upload(&self, path: &str, file: File) -> Result<()> {
        let length = file.metadata().map_err(|source| Error::Output { service: self.service, source })?.len();
        let client = self.transport(http::upload_client())?;
        let sent = Arc::new(AtomicU64::new(0));
        let request = self
            .request(&client, Method::PUT, path)
            .await?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .body(counted(file, Arc::clone(&sent)));
        let response = at_pace(&sent, request.send()).await.ok_or(Error::Slow { service: self.service })?;
        self.checked(self.transport(response)?).await.map(drop)
    }

    async fn bytes(
        &self,
        timeout: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>> {
        let body = body.map(serde_json::to_value).transpose();
        let body = body.map_err(|source| Error::Answer { service: self.service, source })?;
        let complete = |request: RequestBuilder| match &body {
            Some(body) => request.timeout(timeout).json(body),
            None => request.timeout(timeout),
        };
        let response = self.send(method, path, complete).await?;
        self.read(response).await
    }

    /// The answer to a request that `complete` makes whole, sent again with a new token if the service refuses the old one.
    async fn send(
        &self,
        method: Method,
        path: &str,
        complete: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let client = self.keystone.client();
        let request = complete(self.request(client, method.clone(), path).await?);
        let mut response = self.transport(request.send().await)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.user.is_none() {
            self.keystone.renew().await?;
            let request = complete(self.request(client, method, path).await?);
            response = self.transport(request.send().await)?;
        }
        self.checked(response).await
    }

    /// The answer, if it is a success.
    async fn checked(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let late = Err(Error::Timeout { service: self.service });
        let bytes = timeout(TIMEOUT, self.read(response)).await.unwrap_or(late)?;
        Err(Error::Status { service: self.service, status, message: error_message(&bytes) })
    }

    async fn request(&self, client: &Client, method: Method, path: &str) -> Result<RequestBuilder> {
        let base = match self.options.endpoint_override.as_str() {
            "" => self.keystone.endpoint(self.service_types, self.options.interface()).await?,
            address => address.trim_end_matches('/').to_owned(),
        };
        let token = match &self.user {
            Some(user) => user.0.clone(),
            None => self.keystone.token().await?,
        };
        let request = client
            .request(method, format!("{base}{path}"))
            .header("X-Auth-Token", token)
            .header("Accept", "application/json");
        let request = match self.microversion {
            Some(version) => request.header("OpenStack-API-Version", version),
            None => request,
        };
        Ok(if self.as_service {
            request.header("X-Service-Token", self.keystone.token().await?)
        } else {
            request
        })
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.transport(response.chunk().await)? {
            if bytes.len() + chunk.len() > ANSWER_MAX {
                return Err(Error::Options(format!("{} sent more than {ANSWER_MAX} bytes", self.service)));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn transport<T>(&self, result: reqwest::Result<T>) -> Result<T> {
        result.map_err(|source| Error::transport(self.service, source))
    }
}

/// The rest of a file, of which `sent` counts the bytes that are read.
fn counted(file: File, sent: Arc<AtomicU64>) -> Body {
    let pieces = try_unfold((tokio::fs::File::from_std(file), sent), |(mut file, sent)| async move {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece).await?;
        piece.truncate(length);
        sent.fetch_add(length as u64, Ordering::Relaxed);
        Ok::<_, io::Error>((length > 0).then_some((piece, (file, sent))))
    });
    Body::wrap_stream(pieces)
}

/// The text in an error's body, in any of the forms that OpenStack's services use.
fn error_message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let candidates =
        ["/NeutronError/message", "/NeutronError", "/errors/0/detail", "/error/message", "/message"];
    // Cinder's only member has the error's name.
    let only = value.as_object().and_then(|object| object.values().next()?.get("message")?.as_str());
    let found = candidates.iter().find_map(|path| value.pointer(path)?.as_str()).or(only);
    found.map_or_else(
        || String::from_utf8_lossy(body).chars().take(300).collect(),
        |text| text.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_answer_is_named() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ClientOptions {
            endpoint_override: format!("http://{}", silent.local_addr().unwrap()),
            ..ClientOptions::default()
        };
        let rest = Rest::new(Keystone::absent().await, "Glance", &["image"], options, None);
        let rest = rest.as_user(UserToken::new("token"));
        let error = rest.call::<Value>(Method::GET, "/", NOTHING).await.unwrap_err().to_string();
        assert_eq!(error, "Glance did not answer in time");
        let error = rest.download("/", &mut tokio::io::sink()).await.unwrap_err().to_string();
        assert_eq!(error, "Glance did not answer in time");
        // More than the connection takes before its other end reads.
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let error = rest.upload("/", file).await.unwrap_err().to_string();
        assert!(error.contains("Glance"), "{error}");
    }

    #[test]
    fn errors_are_found_in_their_bodies() {
        for body in [
            r#"{"NeutronError": {"type": "X", "message": "no room", "detail": ""}}"#,
            r#"{"errors": [{"status": 409, "detail": "no room\n"}]}"#,
            r#"{"error": {"code": 401, "message": "no room"}}"#,
            r#"{"badRequest": {"code": 400, "message": "no room"}}"#,
            "no room",
        ] {
            assert_eq!(error_message(body.as_bytes()), "no room");
        }
    }

    #[test]
    fn interfaces_have_two_names() {
        let options = |endpoint_type: &str, valid: &str| ClientOptions {
            endpoint_type: endpoint_type.into(),
            valid_interfaces: valid.into(),
            endpoint_override: String::new(),
        };
        assert!(matches!(options("internalURL", "").interface(), InterfaceType::Internal));
        assert!(matches!(options("publicURL", "admin,public").interface(), InterfaceType::Admin));
        assert!(matches!(options("", "").interface(), InterfaceType::Public));
    }
}
