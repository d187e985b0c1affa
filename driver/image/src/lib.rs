//! Images: pulled from a registry or read from an archive, verified, and turned into one read-only squashfs file each,
//! named by the chain of its layers' digests and shared by all sandboxes.
//!
//! No path of an image is ever a path of this host: layers are merged in memory, and the file system is written
//! by `tar2sqfs` from one stream.

#![forbid(unsafe_code)]

mod archive;
mod archived;
mod bounded;
mod budget;
mod collect;
mod decompress;
mod digest;
mod error;
mod keyed_lock;
mod layers;
mod merge;
mod options;
mod progress;
mod pull;
mod reference;
mod saved;
mod scrub;
mod search;
mod section;
mod shelf;
mod sparse;
mod squash;
mod store;
mod tree;

pub use archived::archived;
pub use budget::Budget;
pub use collect::Retention;
pub use digest::Digest;
pub use error::{Error, Result};
pub use merge::add_layer;
pub use oci_spec::image::ImageConfiguration;
pub use options::{Credentials, CredentialsOwner, Mirror, PullPolicy, RegistryOptions};
pub use progress::Progress;
pub use reference::ImageReference;
pub use saved::{Addition, save};
pub use scrub::{Finding, Scrubbed, scrub};
pub use search::{SearchResult, search};
pub use shelf::{Image, ImageSource};
pub use store::Store;
pub use tree::Tree;
