//! Files of this host, of which some were written by a shim that may have been compromised.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};

/// Removes a file. Idempotent: succeeds if there is none.
pub fn remove(path: &Path) -> Result<()> {
    done_or_absent(fs::remove_file(path)).map_err(Error::io("remove", path))
}

/// Removes a folder in which nobody writes any more, with all that is in it, however deep. Idempotent: succeeds if there
/// is none. A folder in a folder is moved up before it is emptied, so that neither a path nor a stack grows with the
/// depth. No link is followed; one that stands in the folder's place goes itself.
pub fn remove_folder(path: &Path) -> Result<()> {
    let removed = || {
        if !fs::symlink_metadata(path)?.is_dir() {
            return fs::remove_file(path);
        }
        let mut lifted = 0;
        while take_entries(path, |folder| {
            empty(folder, path, &mut lifted)?;
            fs::remove_dir(folder)
        })? {}
        fs::remove_dir(path)
    };
    done_or_absent(removed()).map_err(Error::io("remove", path))
}

/// Empties a folder, whose own folders are moved into `top`.
fn empty(folder: &Path, top: &Path, lifted: &mut u64) -> io::Result<()> {
    while take_entries(folder, |inner| lift(inner, top, lifted))? {}
    Ok(())
}

/// Removes the files of a folder, and lets its folders be taken away. False if it was empty.
fn take_entries(folder: &Path, mut take_folder: impl FnMut(&Path) -> io::Result<()>) -> io::Result<bool> {
    let mut had_any = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        had_any = true;
        if entry.file_type()?.is_dir() {
            take_folder(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(had_any)
}

/// Moves a folder into `top`, under a name that nothing there has.
fn lift(folder: &Path, top: &Path, lifted: &mut u64) -> io::Result<()> {
    loop {
        *lifted += 1;
        match fs::rename(folder, top.join(format!("lifted-{lifted}"))) {
            Err(e) if is_taken(e.kind()) => {}
            moved => return moved,
        }
    }
}

/// Whether something else has the name; some file systems say that it exists where others say that it is not empty.
fn is_taken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory)
}

fn done_or_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_of_any_depth_is_removed_and_nothing_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let (kept, folder) = (place.path().join("kept"), place.path().join("folder"));
        fs::create_dir_all(kept.join("inner")).unwrap();
        fs::create_dir_all(folder.join("lifted-2/x")).unwrap();
        fs::write(folder.join("lifted-1"), "a file").unwrap();
        symlink(&kept, folder.join("link")).unwrap();
        // Deeper than a path can be long, and than a recursion of a thread's stack can follow.
        for depth in 0..30_000 {
            let around = place.path().join("around");
            fs::create_dir(&around).unwrap();
            if depth > 0 {
                fs::rename(place.path().join("deep"), around.join("a")).unwrap();
            }
            symlink(&kept, around.join("link")).unwrap();
            fs::rename(&around, place.path().join("deep")).unwrap();
        }
        fs::rename(place.path().join("deep"), folder.join("deep")).unwrap();
        let stack = std::thread::Builder::new().stack_size(128 << 10);
        let removed = stack.spawn({
            let folder = folder.clone();
            move || remove_folder(&folder)
        });
        removed.unwrap().join().unwrap().unwrap();
        assert!(!folder.exists() && kept.join("inner").exists());
        remove_folder(&folder).unwrap();
        symlink(&kept, &folder).unwrap();
        remove_folder(&folder).unwrap();
        assert!(folder.symlink_metadata().is_err() && kept.join("inner").exists());
    }
}
