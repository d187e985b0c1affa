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
    /// Most bytes of an image's layers together, uncompressed.
    pub image_bytes_max: u64,
}

/// A user of a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}
