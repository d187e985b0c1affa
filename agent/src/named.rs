use std::io;
use std::path::Path;

/// Says of which path an error is.
pub fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
