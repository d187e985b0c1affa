//! Images: pulled from a registry or read from an archive, verified, and turned into one read-only squashfs file each,
//! named by the chain of its layers' digests and shared by all sandboxes. What is in them is read by workers: processes
//! without rights.

#![forbid(unsafe_code)]

mod archived;
mod bounded;
mod collect;
mod configuration;
mod error;
mod holds;
mod options;
mod progress;
mod pull;
mod reason;
mod reference;
mod registry;
mod saved;
mod scrub;
mod search;
mod shelf;
mod store;
mod worker;

pub use archived::archived;
pub use collect::Retention;
pub use error::{Error, Result};
pub use holds::Hold;
pub use image_work::{Digest, Limits, TreeLimits};
pub use oci_spec::image::ImageConfiguration;
pub use options::{Credentials, CredentialsOwner, PullPolicy, RegistryHost, RegistryOptions};
pub use progress::Progress;
pub use reason::Reason;
pub use reference::ImageReference;
pub use saved::{Addition, save};
pub use scrub::{Finding, Scrubbed, scrub};
pub use search::{SearchResult, search};
pub use shelf::{Image, ImageSource};
pub use store::{InUse, Store};
pub use worker::WorkerOptions;
