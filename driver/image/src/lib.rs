//! Images: pulled from a registry, verified while they stream, and turned into one read-only squashfs file each,
//! named by the chain of its layers' digests and shared by all sandboxes.
//!
//! No path of an image is ever a path of this host: layers are merged in memory, and the file system is written
//! by `tar2sqfs` from one stream.

#![forbid(unsafe_code)]

mod bounded;
mod decompress;
mod digest;
mod error;
mod merge;
mod options;
mod progress;
mod pull;
mod reference;
mod search;
mod squash;
mod store;
mod tree;

pub use digest::Digest;
pub use error::{Error, Result};
pub use merge::add_layer;
pub use oci_spec::image::ImageConfiguration;
pub use options::{Credentials, PullPolicy, RegistryOptions};
pub use progress::Progress;
pub use reference::ImageReference;
pub use search::{SearchResult, search};
pub use store::{Image, Store};
pub use tree::Tree;
