//! Tokens for a registry (the distribution project's token specification).

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::location::{is_same_host, may_lead};
use super::{Failure, Registry, Result, read};

/// Most bytes of an answer with a token.
const TOKEN_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Registry {
    /// A token of the server at `realm`. The user's credentials go to the registry's own host, or one that is known to give its
    /// tokens: whoever answers for a registry could name any other.
    pub(super) async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<HeaderValue> {
        let url = Url::parse(realm).map_err(|e| self.untrusted_realm(realm, &e.to_string()))?;
        if !may_lead(&self.base, &url) {
            return Err(self.untrusted_realm(realm, "it is not encrypted, or this host's own"));
        }
        let mut request = self.http.get(url.clone());
        let own_scope = format!("repository:{}:pull", self.repository);
        request = request.query(&[("scope", scope.unwrap_or(&own_scope))]);
        if let Some(service) = service {
            request = request.query(&[("service", service)]);
        }
        if let Some(credentials) = &self.credentials {
            if !self.gives_tokens(&url) {
                let known = "it is no host that [kata] registry_auth_hosts names for this registry";
                return Err(self.untrusted_realm(realm, known));
            }
            request = request.basic_auth(&credentials.username, Some(&credentials.password));
        }
        let answer = request.send().await.map_err(Failure::of)?;
        match answer.status().as_u16() {
            200..=299 => {}
            401 | 403 => return Err(Failure::Unauthorized),
            other => return Err(Failure::Answer(format!("{url} answers {other} for a token"))),
        }
        let given: Given = serde_json::from_slice(&read(answer, TOKEN_MAX).await?)
            .map_err(|e| Failure::Answer(format!("{url} gives no token: {e}")))?;
        let token = given.token.or(given.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Failure::Answer(format!("{url} gives no token")))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Failure::Answer(format!("{url} gives a token that is none")))?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn gives_tokens(&self, url: &Url) -> bool {
        let named = |host: &String| url.host_str() == Some(host) || host_and_port(url).as_ref() == Some(host);
        is_same_host(&self.base, url) || self.auth_hosts.iter().any(named)
    }

    fn untrusted_realm(&self, realm: &str, why: &str) -> Failure {
        Failure::Answer(format!("token server {realm} refused: {why}"))
    }
}

fn host_and_port(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}
