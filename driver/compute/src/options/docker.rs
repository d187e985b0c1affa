use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ConfigError;

/// `[docker]`, as far as it says anything without Docker.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Docker {
    pub default_registry: Option<String>,
    pub default_registry_username: Option<String>,
    pub default_registry_password: String,
    pub default_timeout: u64,
    pub execute_timeout: u64,
    pub docker_remote_api_version: String,
    pub docker_remote_api_host: Option<String>,
    pub docker_remote_api_port: u16,
    pub docker_remote_api_url: Option<String>,
    pub api_insecure: bool,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// The files of TLS.
pub struct TlsFiles<'a> {
    /// Certificates of the authorities that sign those of clients.
    pub authorities: &'a Path,
    /// This host's certificate.
    pub certificate: &'a Path,
    /// Its key.
    pub key: &'a Path,
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            default_registry: None,
            default_registry_username: None,
            default_registry_password: String::new(),
            default_timeout: 60,
            execute_timeout: 5,
            docker_remote_api_version: "1.40".into(),
            docker_remote_api_host: None,
            docker_remote_api_port: 2375,
            docker_remote_api_url: None,
            api_insecure: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl Docker {
    /// Fills in what depends on another group.
    pub(super) fn complete(&mut self, my_ip: &str) {
        self.docker_remote_api_host.get_or_insert_with(|| my_ip.to_owned());
    }

    /// The address at which the proxy finds the consoles.
    pub fn remote_api_host(&self) -> &str {
        self.docker_remote_api_host.as_deref().unwrap_or_default()
    }

    /// The same with its port, as URLs have it.
    pub fn remote_api_address(&self) -> String {
        let (host, port) = (self.remote_api_host(), self.docker_remote_api_port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The URL of execs, without a slash at its end.
    pub fn remote_api_url(&self) -> String {
        let scheme = if self.tls().is_ok_and(|tls| tls.is_some()) { "https" } else { "tcp" };
        let made = || format!("{scheme}://{}", self.remote_api_address());
        self.docker_remote_api_url.as_deref().map_or_else(made, |url| url.trim_end_matches('/').to_owned())
    }

    /// The files of TLS, if it is asked for. Upstream goes on without TLS where one of them is missing.
    pub fn tls(&self) -> Result<Option<TlsFiles<'_>>, ConfigError> {
        if self.api_insecure {
            return Ok(None);
        }
        match (self.ca_file.as_deref(), self.cert_file.as_deref(), self.key_file.as_deref()) {
            (None, None, None) => Ok(None),
            (Some(authorities), Some(certificate), Some(key)) => {
                Ok(Some(TlsFiles { authorities, certificate, key }))
            }
            _ => Err(ConfigError::of(
                "[docker] ca_file, cert_file, key_file",
                "they go together, and one is missing",
            )),
        }
    }
}
