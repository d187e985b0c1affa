use std::str::FromStr;

/// When an image is fetched although it may be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// The registry is asked each time; what has not changed is not fetched.
    Always,
    /// Only if it is not here.
    IfNotPresent,
    /// Never.
    Never,
}

/// The text names no pull policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pull policy: always, ifnotpresent and never are")]
pub struct ParsePolicyError(String);

impl FromStr for PullPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "always" => Ok(Self::Always),
            "ifnotpresent" => Ok(Self::IfNotPresent),
            "never" => Ok(Self::Never),
            _ => Err(ParsePolicyError(text.to_owned())),
        }
    }
}

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Registries, as `host` or `host:port`, that are reached over plain HTTP.
    pub plain_http: Vec<String>,
    /// PEM files of further certificate authorities.
    pub certificates: Vec<Vec<u8>>,
    /// Which registries are asked first for another's images.
    pub mirrors: Vec<RegistryHost>,
    /// Which hosts, beside a registry's own, are told its users' credentials to give tokens for it.
    pub auth_hosts: Vec<RegistryHost>,
}

impl RegistryOptions {
    /// The mirrors of `registry`, in the order in which they are asked.
    pub fn mirrors_of(&self, registry: &str) -> impl Iterator<Item = &str> {
        self.mirrors
            .iter()
            .filter(move |mirror| mirror.registry == registry)
            .map(|mirror| mirror.host.as_str())
    }
}

/// A host that stands for a registry: it has its images, or gives tokens for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryHost {
    /// The registry, as references name it: `docker.io`.
    pub registry: String,
    /// Where it is, `host` or `host:port`.
    pub host: String,
}

/// The text names no host of a registry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not written REGISTRY=HOST[:PORT]")]
pub struct ParseHostError(String);

impl FromStr for RegistryHost {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_host = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c))
        };
        match text.split_once('=').map(|(registry, host)| (registry.trim(), host.trim())) {
            Some((registry, host)) if is_host(registry) && is_host(host) => {
                Ok(Self { registry: registry.to_owned(), host: host.to_owned() })
            }
            _ => Err(ParseHostError(text.to_owned())),
        }
    }
}

/// A user of a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: String,
    /// Whose they are.
    pub owner: CredentialsOwner,
}

/// Whose credentials are, and so for whom is what they open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialsOwner {
    /// This host's operator's: what they open is for all users of the host.
    Operator,
    /// A user's: another user gets the image only with credentials that the registry accepts.
    User,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_read_or_named() {
        let mirror: RegistryHost = "docker.io = mirror.example:5000".parse().unwrap();
        assert_eq!((mirror.registry.as_str(), mirror.host.as_str()), ("docker.io", "mirror.example:5000"));
        for bad in ["", "docker.io", "docker.io=", "=m.example", "a=https://m.example", "a=b=c"] {
            assert!(bad.parse::<RegistryHost>().unwrap_err().to_string().contains(&format!("{bad:?}")));
        }
    }
}
