//! What the service and a worker say to each other: a line of JSON each, an order and its report in turn. Files are named
//! by their names in the worker's directory. What a worker reports is as trustworthy as what it has read.

use std::io::{self, BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::tree::TreeLimits;

/// Longest line in bytes: an image's configuration, escaped twice over, fits.
pub const LINE_MAX: u64 = 32 << 20;

/// How large an image may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all its layers, uncompressed.
    pub bytes: u64,
    /// Of the tree that its layers are together.
    pub tree: TreeLimits,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The file.
    pub file: String,
    /// Where the part begins.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
}

/// A layer as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// What errors call it.
    pub name: Digest,
    /// Its content, compressed or not.
    pub content: Piece,
    /// The digest that its uncompressed content must have.
    pub diff_id: String,
}

/// What a worker is to do. The first order is [`Order::Begin`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The image that this worker is for.
    Begin(Limits),
    /// Find the image in the archive of this name. Report: [`Report::Image`].
    Read(String),
    /// Add the next layer, the lowest first.
    Add(Layer),
    /// Write the file system that the layers are together to a new file of this name.
    Write(String),
    /// Write an archive of an image that has these layers and one more to a new file.
    Save {
        /// The image.
        save: Save,
        /// The file's name.
        out: String,
    },
}

/// An image made of another and one layer more.
#[derive(Debug, Serialize, Deserialize)]
pub struct Save {
    /// The parent's layers.
    pub layers: Vec<Layer>,
    /// The parent's configuration.
    pub configuration: String,
    /// The layer of its own, an archive that is not compressed.
    pub own: Piece,
    /// How a container runs, in place of what the parent's configuration says.
    pub config: Map<String, Value>,
    /// When it was made (RFC 3339).
    pub created: String,
    /// By which command.
    pub created_by: String,
    /// What it is called, with a tag.
    pub name: String,
}

/// What has become of an order.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// It is done.
    Done,
    /// The image of an archive.
    Image(FoundImage),
    /// It could not be done.
    Failed(Fault),
}

/// The one image of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundImage {
    /// The digest of its manifest, which names its configuration and layers.
    pub manifest: Digest,
    /// Its configuration as it is written.
    pub configuration: String,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// Why an order could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[allow(missing_docs)]
pub enum Fault {
    /// A layer is not what it should be.
    #[error("layer {layer} is not valid: {reason}")]
    Layer { layer: Digest, reason: String },
    /// The image is invalid.
    #[error("{0}")]
    Invalid(String),
    /// Content does not match its digest.
    #[error("{what} has digest {found}, not {expected}")]
    Digest { what: String, expected: Digest, found: Digest },
    /// There is none for this platform.
    #[error("it has no variant for linux/amd64")]
    Platform,
    /// Output cannot be written.
    #[error("{0}")]
    Store(String),
}

/// The next line, unless the other side has ended.
pub fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(LINE_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line has no end")),
    }
}

/// Writes one line.
pub fn write_line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}
