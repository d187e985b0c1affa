//! Files in a worker's directory.

use std::fs::File;

use crate::orders::{Fault, Piece};
use crate::section::Section;

/// The file of this name.
pub fn open(name: &str) -> Result<File, Fault> {
    File::open(name).map_err(|e| Fault::Store(format!("{name}: {e}")))
}

/// A part of one.
pub fn section(piece: &Piece) -> Result<Section, Fault> {
    let whole = Section::whole(open(&piece.file)?).map_err(|e| Fault::Store(e.to_string()))?;
    whole.part(piece.start, piece.length).map_err(|e| Fault::Store(format!("{}: {e}", piece.file)))
}
