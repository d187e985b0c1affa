use reqwest::StatusCode;

use crate::pace::{BYTES_MIN, STRETCH};

/// Why a call to another service failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("Keystone: {0}")]
    Keystone(#[from] openstack::Error),
    #[error("{service} cannot be reached: {source}")]
    Transport { service: &'static str, source: reqwest::Error },
    #[error("{service} did not answer in time")]
    Timeout { service: &'static str },
    #[error("a transfer of {service} is too slow: less than {} KiB in {} s", BYTES_MIN >> 10, STRETCH.as_secs())]
    Slow { service: &'static str },
    #[error("{service}: {message} (HTTP {status})")]
    Status { service: &'static str, status: StatusCode, message: String },
    #[error("{service} answered what cannot be read: {source}")]
    Answer { service: &'static str, source: serde_json::Error },
    #[error("what {service} sent cannot be written: {source}")]
    Output { service: &'static str, source: std::io::Error },
    #[error("image {image} of Glance has {algorithm} {found}, not {expected}")]
    Checksum { image: String, algorithm: String, expected: String, found: String },
    #[error("{0}")]
    Options(String),
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A request that `service` has not answered.
    pub(crate) fn transport(service: &'static str, source: reqwest::Error) -> Self {
        if source.is_timeout() {
            return Self::Timeout { service };
        }
        // The address may hold no secret, but it is the catalogue's and says nothing to whoever reads the error.
        Self::Transport { service, source: source.without_url() }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::NOT_FOUND, .. })
    }

    /// Whether somebody else changed the thing in the meantime.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::CONFLICT, .. })
    }
}
