use std::time::Duration;

use openstack::InterfaceType;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::keystone::Keystone;

const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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
    client: Client,
    service: &'static str,
    service_type: &'static str,
    options: ClientOptions,
    /// Value of the `OpenStack-API-Version` header.
    microversion: Option<&'static str>,
}

/// No body to send.
pub(crate) const NOTHING: Option<&Value> = None;

impl Rest {
    pub fn new(
        keystone: Keystone,
        service: &'static str,
        service_type: &'static str,
        options: ClientOptions,
        microversion: Option<&'static str>,
    ) -> Result<Self> {
        let client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|source| Error::Transport { service, source })?;
        Ok(Self { keystone, client, service, service_type, options, microversion })
    }

    /// Sends a request and reads its answer. A token that the service refuses is renewed once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let bytes = self.bytes(method, path, body).await?;
        let bytes = if bytes.is_empty() { b"null" } else { &bytes[..] };
        serde_json::from_slice(bytes).map_err(|source| Error::Answer { service: self.service, source })
    }

    async fn bytes(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Vec<u8>> {
        let mut response = self.send(method.clone(), path, body).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.keystone.renew().await?;
            response = self.send(method, path, body).await?;
        }
        let status = response.status();
        let bytes = self.read(response).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(Error::Status { service: self.service, status, message: error_message(&bytes) })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Response> {
        let base = match self.options.endpoint_override.as_str() {
            "" => self.keystone.endpoint(self.service_type, self.options.interface()).await?,
            address => address.trim_end_matches('/').to_owned(),
        };
        let mut request = self
            .client
            .request(method, format!("{base}{path}"))
            .header("X-Auth-Token", self.keystone.token().await?)
            .header("Accept", "application/json");
        if let Some(version) = self.microversion {
            request = request.header("OpenStack-API-Version", version);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.transport(RequestBuilder::send(request).await)
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
    let found = candidates.iter().find_map(|path| value.pointer(path)?.as_str());
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
