use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Paths of what is in a folder. One that is not there, or goes in the meantime, is empty.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        read => read?.map(|entry| Ok(entry?.path())).collect(),
    }
}
