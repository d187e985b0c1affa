//! What is done with what tenants and registries send: layers are read into one tree and written as a squashfs file, archives
//! of images are read and written. A worker does it as it is ordered, in a process without rights.
//!
//! No path of an image is ever a path of this host: layers are merged in memory, and the file system is written
//! by `tar2sqfs` from one stream.

#![forbid(unsafe_code)]

mod archive;
mod budget;
mod decompress;
mod digest;
mod file_system;
mod files;
mod headers;
mod layers;
mod merge;
mod orders;
mod path;
mod platform;
mod save;
mod section;
mod sparse;
mod squash;
mod tree;
mod work;

pub use budget::Budget;
pub use digest::{Digest, Digester, ParseDigestError, sum_of};
pub use layers::{CONFIG_MAX, LAYERS_MAX, check_number, is_foreign};
pub use merge::add_layer;
pub use orders::{
    Fault, FoundImage, LINE_MAX, Layer, Limits, Order, Piece, Report, Save, read_line, write_line,
};
pub use platform::is_for_us;
pub use tree::{Tree, TreeLimits};
pub use work::work;
