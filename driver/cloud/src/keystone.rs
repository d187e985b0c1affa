use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openstack::auth::Password;
use openstack::session::Session;
use openstack::{ErrorKind, IdOrName, InterfaceType};
use serde::Deserialize;
use tokio::sync::RwLock;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::http;

const SERVICE: &str = "Keystone";
/// Longest wait for a token. The library has no limit of its own, and who asks meanwhile waits for the same answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A section with keystoneauth's options for a password: `[keystone_auth]`.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct AuthOptions {
    /// Only `password` is supported.
    pub auth_type: String,
    /// Keystone's address.
    pub auth_url: String,
    /// The service's user.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Its project.
    pub project_name: String,
    /// The user's domain.
    pub user_domain_name: String,
    /// The project's domain.
    pub project_domain_name: String,
    /// The user's domain by identifier, where no name is given.
    pub user_domain_id: String,
    /// The project's domain by identifier, where no name is given.
    pub project_domain_id: String,
    /// Region whose endpoints are used; empty is any.
    pub region_name: String,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            auth_type: "password".into(),
            auth_url: String::new(),
            username: String::new(),
            password: String::new(),
            project_name: String::new(),
            user_domain_name: String::new(),
            project_domain_name: String::new(),
            user_domain_id: String::new(),
            project_domain_id: String::new(),
            region_name: String::new(),
        }
    }
}

impl AuthOptions {
    /// Says which option cannot be used.
    pub fn validate(&self, section: &str) -> Result<()> {
        if !matches!(self.auth_type.as_str(), "password" | "v3password") {
            return Err(Error::Options(format!(
                "[{section}] auth_type = {}: only password is supported",
                self.auth_type
            )));
        }
        let needed = [
            ("auth_url", &self.auth_url),
            ("username", &self.username),
            ("project_name", &self.project_name),
        ];
        match needed.into_iter().find(|(_, value)| value.is_empty()) {
            Some((name, _)) => Err(Error::Options(format!("[{section}] {name} is missing"))),
            None => Ok(()),
        }
    }
}

/// The token of a user whom the service serves.
#[derive(Clone)]
pub struct UserToken(pub(crate) String);

impl UserToken {
    /// A token as it came with a request.
    pub fn new(token: &str) -> Self {
        Self(token.to_owned())
    }
}

impl std::fmt::Debug for UserToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserToken")
    }
}

/// A session as the service's user. Tokens are renewed before they expire.
#[derive(Clone)]
pub struct Keystone {
    options: AuthOptions,
    session: Arc<RwLock<Session>>,
    client: reqwest::Client,
}

impl Keystone {
    /// Authenticates.
    pub async fn connect(options: &AuthOptions) -> Result<Self> {
        let session = Arc::new(RwLock::new(authenticate(options).await?));
        let client = http::client().map_err(|source| Error::transport(SERVICE, source))?;
        Ok(Self { options: options.clone(), session, client })
    }

    /// What calls to other services are made with.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// The current session. A copy of it, so that nobody holds the lock while waiting for Keystone.
    async fn session(&self) -> Session {
        self.session.read().await.clone()
    }

    /// A valid token. The library hands tokens out only on requests, so one is prepared that is never sent.
    pub(crate) async fn token(&self) -> Result<String> {
        let session = self.session().await;
        let client = session.client().inner();
        let request = client.get("http://localhost/");
        let request = within(session.auth_type().authenticate(client, request)).await?;
        let built = request.build().map_err(|e| Error::Options(e.to_string()))?;
        let token = built.headers().get("x-auth-token").and_then(|token| token.to_str().ok());
        token.map(str::to_owned).ok_or_else(|| Error::Options("Keystone gave no token".into()))
    }

    /// Gets a new token although the old one has not expired, which the library's own renewal would keep.
    pub(crate) async fn renew(&self) -> Result<()> {
        let session = authenticate(&self.options).await?;
        *self.session.write().await = session;
        Ok(())
    }

    /// A service's address in the catalogue, under the first of its names that is there. The catalogue came with the token: a
    /// service that is not in it may be there by now.
    pub(crate) async fn endpoint(&self, service_types: &[&str], interface: InterfaceType) -> Result<String> {
        match self.known_endpoint(service_types, interface).await {
            Err(Error::Keystone(e)) if e.kind() == ErrorKind::EndpointNotFound => {
                self.renew().await?;
                self.known_endpoint(service_types, interface).await
            }
            known => known,
        }
    }

    async fn known_endpoint(&self, service_types: &[&str], interface: InterfaceType) -> Result<String> {
        let session = self.session().await;
        let mut filters = session.endpoint_filters().clone();
        filters.set_interfaces(interface);
        let client = session.client().inner();
        let mut missing = None;
        for service_type in service_types {
            match within(session.auth_type().get_endpoint(client, service_type, &filters)).await {
                Ok(url) => return Ok(url.as_str().trim_end_matches('/').to_owned()),
                Err(e @ Error::Timeout { .. }) => return Err(e),
                Err(e) => missing = missing.or(Some(e)),
            }
        }
        Err(missing.unwrap_or_else(|| Error::Options("a service has no name".into())))
    }
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone").field("auth_url", &self.options.auth_url).finish_non_exhaustive()
    }
}

/// What Keystone answers in time.
async fn within<T>(answer: impl Future<Output = std::result::Result<T, openstack::Error>>) -> Result<T> {
    match timeout(TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(Error::Keystone),
        Err(_) => Err(Error::Timeout { service: SERVICE }),
    }
}

async fn authenticate(options: &AuthOptions) -> Result<Session> {
    let domain = |name: &str, id: &str| match (name, id) {
        ("", "") => IdOrName::Name("Default".into()),
        ("", id) => IdOrName::Id(id.to_owned()),
        (name, _) => IdOrName::Name(name.to_owned()),
    };
    let user_domain = match options.user_domain_name.as_str() {
        // The library takes a user's domain by name only; the default domain's name never changes.
        "" if matches!(options.user_domain_id.as_str(), "" | "default") => "Default",
        "" => {
            return Err(Error::Options("user_domain_id is not supported: give user_domain_name".into()));
        }
        name => name,
    };
    let project_domain = domain(&options.project_domain_name, &options.project_domain_id);
    let auth = Password::new(&options.auth_url, &options.username, &options.password, user_domain)?
        .with_project_scope(IdOrName::Name(options.project_name.clone()), project_domain);
    let mut session = within(Session::new(auth)).await?;
    if !options.region_name.is_empty() {
        session.set_region(&options.region_name);
    }
    Ok(session)
}

#[cfg(test)]
impl Keystone {
    /// A session without a Keystone, for calls in a user's name to a given address.
    pub(crate) async fn absent() -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let session = Session::new(openstack::auth::NoAuth::new("http://127.0.0.1/").unwrap()).await.unwrap();
        Self {
            options: AuthOptions::default(),
            session: Arc::new(RwLock::new(session)),
            client: http::client().unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A Keystone whose every token has a number, and which knows one service more each time.
    fn counting_keystone() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let mut client = client.unwrap();
                let _ = client.read(&mut [0; 4096]).unwrap();
                let catalog: Vec<_> = (0..number + 1).map(service).collect();
                let body = format!(
                    r#"{{"token": {{"methods": ["password"], "expires_at": "2999-01-01T00:00:00Z", "catalog": [{}]}}}}"#,
                    catalog.join(",")
                );
                write!(
                    client,
                    "HTTP/1.1 201 Created\r\nX-Subject-Token: token-{number}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        format!("http://{address}/v3")
    }

    fn service(number: usize) -> String {
        format!(
            r#"{{"type": "service-{number}", "name": "x", "endpoints": [{{"id": "e", "interface": "public", "region": "here",
                "region_id": "here", "url": "http://127.0.0.1/{number}"}}]}}"#
        )
    }

    #[tokio::test]
    async fn a_token_that_has_not_expired_is_renewed_all_the_same() {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = AuthOptions {
            auth_url: counting_keystone(),
            username: "zun".into(),
            password: "secret".into(),
            project_name: "service".into(),
            ..Default::default()
        };
        let keystone = Keystone::connect(&options).await.unwrap();
        assert!(!format!("{keystone:?}").contains("secret"));
        assert_eq!(keystone.token().await.unwrap(), "token-0");
        keystone.clone().renew().await.unwrap();
        assert_eq!(keystone.token().await.unwrap(), "token-1");
        // Its catalogue has two services; the third came later.
        for (number, token) in [(1, "token-1"), (2, "token-2"), (0, "token-2")] {
            let endpoint = keystone.endpoint(&[&format!("service-{number}")], InterfaceType::Public).await;
            assert_eq!(endpoint.unwrap(), format!("http://127.0.0.1/{number}"));
            assert_eq!(keystone.token().await.unwrap(), token);
        }
        let missing = keystone.endpoint(&["service-9"], InterfaceType::Public).await.unwrap_err().to_string();
        assert!(missing.contains("service-9"), "{missing}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_keystone_that_does_not_answer_is_named() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let auth_url = format!("http://{}/v3", silent.local_addr().unwrap());
        let options = AuthOptions { auth_url, ..Default::default() };
        let error = Keystone::connect(&options).await.unwrap_err().to_string();
        assert_eq!(error, "Keystone did not answer in time");
    }

    #[test]
    fn missing_options_are_named() {
        let mut options =
            AuthOptions { auth_url: "http://h/v3".into(), username: "zun".into(), ..Default::default() };
        let text = |options: &AuthOptions| options.validate("keystone_auth").unwrap_err().to_string();
        assert_eq!(text(&options), "[keystone_auth] project_name is missing");
        options.auth_type = "v3token".into();
        assert_eq!(text(&options), "[keystone_auth] auth_type = v3token: only password is supported");
    }
}
