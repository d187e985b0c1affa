use std::fs::File;
use std::time::Duration;

use openstack::InterfaceType;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::error::{Error, Result};
use crate::keystone::{Keystone, UserToken};

/// Of a call whose answer is a document.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Before an answer and between two pieces of it: the longest that a call may ask for.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for all services: making one reads all of the system's certificates.
pub(crate) fn client() -> std::result::Result<Client, reqwest::Error> {
    Client::builder().read_timeout(READ_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()
}

/// Longest answer that is read.
const ANSWER_MAX: usize = 16 << 20;

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
    /// In whose name calls are made; none is the service's own.
    user: Option<UserToken>,
    service: &'static str,
    /// By which names catalogues have it, the first that is there counts.
    service_types: &'static [&'static str],
    options: ClientOptions,
    /// Value of the `OpenStack-API-Version` header.
    microversion: Option<&'static str>,
    /// Whether each call says that a service makes it.
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

    /// The same, of a request that the service may take longer to answer: up to [`READ_TIMEOUT`].
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

    /// Sends a request without a body, and writes what comes to `out`, which takes no more than it likes.
    pub async fn download(&self, path: &str, out: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let mut response = self.send(Method::GET, path, |request| request).await?;
        while let Some(chunk) = self.transport(response.chunk().await)? {
            out.write_all(&chunk).await.map_err(|source| Error::Output { service: self.service, source })?;
        }
        out.flush().await.map_err(|source| Error::Output { service: self.service, source })
    }

    /// Sends changes of a media type of their own.
    pub async fn patch(&self, path: &str, media_type: &'static str, changes: &Value) -> Result<()> {
        let complete =
            |request: RequestBuilder| request.timeout(TIMEOUT).header(CONTENT_TYPE, media_type).json(changes);
        self.send(Method::PATCH, path, complete).await.map(drop)
    }

    /// Sends a file from where it is read next. It is sent once: a token that is refused is an error.
    pub async fn upload(&self, path: &str, file: File) -> Result<()> {
        let length = file.metadata().map_err(|source| Error::Output { service: self.service, source })?.len();
        let request = self
            .request(Method::PUT, path)
            .await?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .body(tokio::fs::File::from_std(file));
        let response = self.transport(request.send().await)?;
        self.checked(response).await.map(drop)
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

    /// The answer to a request that `complete` makes whole. It is sent again with a new token if the service refuses its own.
    async fn send(
        &self,
        method: Method,
        path: &str,
        complete: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let request = complete(self.request(method.clone(), path).await?);
        let mut response = self.transport(request.send().await)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.user.is_none() {
            self.keystone.renew().await?;
            let request = complete(self.request(method, path).await?);
            response = self.transport(request.send().await)?;
        }
        self.checked(response).await
    }

    /// An answer that says that all went well.
    async fn checked(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.read(response).await?;
        Err(Error::Status { service: self.service, status, message: error_message(&bytes) })
    }

    async fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let base = match self.options.endpoint_override.as_str() {
            "" => self.keystone.endpoint(self.service_types, self.options.interface()).await?,
            address => address.trim_end_matches('/').to_owned(),
        };
        let token = match &self.user {
            Some(user) => user.0.clone(),
            None => self.keystone.token().await?,
        };
        let request = self
            .keystone
            .client()
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

    fn transport<T>(&self, result: std::result::Result<T, reqwest::Error>) -> Result<T> {
        // The address may hold no secret, but it is the catalogue's and says nothing to whoever reads the error.
        result.map_err(|source| Error::Transport { service: self.service, source: source.without_url() })
    }
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
    use super::*;

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
