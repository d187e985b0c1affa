//! Paths of archives.

/// Longest path in bytes, Linux's own limit.
const PATH_MAX: usize = 4096;

/// A path relative to the root, without empty parts, `.` and `..`; the root is empty.
pub type Path = Vec<u8>;

/// Why a path is none of a tree.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("{0:?} climbs out of the root")]
    Escape(String),
    #[error("{0:?} is too long a path")]
    TooLong(String),
}

/// Brings a path of an archive into the tree's form.
pub fn normalize(path: &[u8]) -> Result<Path, PathError> {
    let text = || String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
    if path.len() > PATH_MAX {
        return Err(PathError::TooLong(text()));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(PathError::Escape(text())),
            part if part.contains(&0) => return Err(PathError::Escape(text())),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// A path's directory and its last part.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalized_and_cannot_climb() {
        assert_eq!(normalize(b"./a//b/").unwrap(), b"a/b");
        assert_eq!(normalize(b"/a").unwrap(), b"a");
        assert_eq!(normalize(b"./").unwrap(), b"");
        assert!(normalize(b"a/../../etc").is_err());
        assert!(normalize(&vec![b'a'; 5000]).is_err());
    }
}
