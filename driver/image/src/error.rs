use std::io;
use std::path::PathBuf;

use image_work::Digest;

use crate::progress::{BYTES_MIN, STRETCH};
use crate::reason::Reason;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("image {0} could not be found")]
    NotFound(String),
    #[error("image {0} is not on this host and its pull policy is never")]
    NotPresent(String),
    #[error("registry {registry} refused the credentials for {image}")]
    Unauthorized { registry: String, image: String },
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable { registry: String, reason: Reason },
    #[error("registry {registry} failed for image {image}: {reason}")]
    Registry { registry: String, image: String, reason: Reason },
    #[error("registry {registry} did not send {what} of image {image} within {seconds} s")]
    Timeout { registry: String, image: String, what: &'static str, seconds: u64 },
    #[error(
        "registry {registry} sends layer {layer} of image {image} too slowly: less than {} KiB in {} s",
        BYTES_MIN >> 10,
        STRETCH.as_secs()
    )]
    Slow { registry: String, image: String, layer: Digest },
    #[error("{what} of image {image} has digest {found}, not {expected}")]
    Digest { image: String, what: Reason, expected: Digest, found: Digest },
    #[error("image {image} is not valid: {reason}")]
    Invalid { image: String, reason: Reason },
    #[error("layer {layer} of image {image} is not valid: {reason}")]
    Layer { image: String, layer: Digest, reason: Reason },
    #[error("{0:?} is not an image reference: {1}")]
    Reference(Reason, Reason),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("image {image} cannot be stored: {reason}")]
    Store { image: String, reason: Reason },
    #[error("image {0} has no variant for linux/amd64")]
    Platform(String),
    #[error("image searching is not supported in registry: {0}")]
    Search(String),
    #[error("the archive of image {image} cannot be fetched: {reason}")]
    Fetch { image: String, reason: Reason },
    #[error("image {image} cannot be read: {reason}")]
    Work { image: String, reason: Reason },
    #[error("images cannot be removed now: look-ups of others leave no turn for it")]
    Busy,
    #[error("the work on image {0} was lost")]
    Lost(String),
}

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
