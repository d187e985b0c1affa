use openstack::auth::Password;
use openstack::session::Session;
use openstack::{ErrorKind, IdOrName, InterfaceType};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::rest;

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
#[derive(Debug, Clone)]
pub struct Keystone {
    session: Session,
    client: reqwest::Client,
}

impl Keystone {
    /// Authenticates.
    pub async fn connect(options: &AuthOptions) -> Result<Self> {
        let domain = |name: &str, id: &str| match (name, id) {
            ("", "") => IdOrName::Name("Default".into()),
            ("", id) => IdOrName::Id(id.to_owned()),
            (name, _) => IdOrName::Name(name.to_owned()),
        };
        let user_domain = match options.user_domain_name.as_str() {
            // A user's domain cannot be given by identifier; the default domain's name is as fixed as its identifier.
            "" if matches!(options.user_domain_id.as_str(), "" | "default") => "Default",
            "" => {
                return Err(Error::Options("user_domain_id is not supported: give user_domain_name".into()));
            }
            name => name,
        };
        let project_domain = domain(&options.project_domain_name, &options.project_domain_id);
        let auth = Password::new(&options.auth_url, &options.username, &options.password, user_domain)?
            .with_project_scope(IdOrName::Name(options.project_name.clone()), project_domain);
        let mut session = Session::new(auth).await?;
        if !options.region_name.is_empty() {
            session.set_region(&options.region_name);
        }
        let client = rest::client().map_err(|source| Error::Transport { service: "Keystone", source })?;
        Ok(Self { session, client })
    }

    /// What calls to other services are made with.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A valid token. The library hands tokens out only on requests, so one is prepared that is never sent.
    pub(crate) async fn token(&self) -> Result<String> {
        let client = self.session.client().inner();
        let request = client.get("http://localhost/");
        let request = self.session.auth_type().authenticate(client, request).await?;
        let built = request.build().map_err(|e| Error::Options(e.to_string()))?;
        let token = built.headers().get("x-auth-token").and_then(|token| token.to_str().ok());
        token.map(str::to_owned).ok_or_else(|| Error::Options("Keystone gave no token".into()))
    }

    /// Gets a new token although the old one has not expired.
    pub(crate) async fn renew(&self) -> Result<()> {
        Ok(self.session.auth_type().refresh(self.session.client().inner()).await?)
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
        let mut filters = self.session.endpoint_filters().clone();
        filters.set_interfaces(interface);
        let client = self.session.client().inner();
        let mut missing = None;
        for service_type in service_types {
            match self.session.auth_type().get_endpoint(client, service_type, &filters).await {
                Ok(url) => return Ok(url.as_str().trim_end_matches('/').to_owned()),
                Err(e) => missing = missing.or(Some(e)),
            }
        }
        Err(missing.map_or_else(|| Error::Options("a service has no name".into()), Error::Keystone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
