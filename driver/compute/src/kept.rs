//! JSON files that this host keeps. A crash leaves the old one or the new.

use std::fs;
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::ContainerUuid;
use sandbox::write_atomically;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

const SUFFIX: &str = ".json";
/// In the name of a file that is being written.
const TORN: &str = ".json.new";

/// What is remembered of containers in a folder, one file each.
#[derive(Debug)]
pub struct Kept<T> {
    folder: PathBuf,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { folder: self.folder.clone(), of: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    /// For somebody who only reads.
    pub fn reader(folder: PathBuf) -> Self {
        Self { folder, of: PhantomData }
    }

    /// For the service, which writes. The folder is made if it is absent, and what a crash has left half written goes.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.and_then(|()| remove_torn(&folder)).map_err(|e| failure(&folder, "opened", e))?;
        Ok(Self::reader(folder))
    }

    /// The containers of which something is remembered.
    pub fn containers(&self) -> Result<Vec<ContainerUuid>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| failure(&self.folder, "read", e))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect())
    }

    /// All of them. One that cannot be read is logged, and keeps none of the others from being found.
    pub fn list(&self) -> Result<Vec<(ContainerUuid, T)>> {
        let read = self.containers()?.into_iter().filter_map(|uuid| {
            let kept = read_json(&self.folder, &name(uuid));
            kept.inspect_err(|e| tracing::error!(container = %uuid, error = %e, "a file is passed over"))
                .ok()
                .map(|kept| (uuid, kept))
        });
        Ok(read.collect())
    }

    /// What is remembered of a container, if anything is.
    pub fn find(&self, uuid: ContainerUuid) -> Result<Option<T>> {
        find_json(&self.folder, &name(uuid))
    }

    /// Remembers this of a container, in place of what was known before.
    pub fn write(&self, uuid: ContainerUuid, value: &T) -> Result<()> {
        write_json(&self.folder, &name(uuid), value)
    }

    /// Forgets a container. Idempotent: succeeds if nothing is remembered of it.
    pub fn forget(&self, uuid: ContainerUuid) -> Result<()> {
        let path = self.folder.join(name(uuid));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failure(&path, "removed", e)),
            _ => Ok(()),
        }
    }
}

fn name(uuid: ContainerUuid) -> String {
    format!("{uuid}{SUFFIX}")
}

/// Reads a JSON file, if there is one. One that cannot be read is an error: it is not taken for none.
pub fn find_json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>> {
    match fs::read(folder.join(name)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        read => parsed(folder, name, read).map(Some),
    }
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    parsed(folder, name, fs::read(folder.join(name)))
}

fn parsed<T: DeserializeOwned>(folder: &Path, name: &str, read: io::Result<Vec<u8>>) -> Result<T> {
    let parsed = read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    parsed.map_err(|e| failure(&folder.join(name), "read", e))
}

/// Writes one.
pub fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let write = || write_atomically(&folder.join(name), &serde_json::to_vec(value)?);
    write().map_err(|e| failure(&folder.join(name), "written", e))
}

fn remove_torn(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains(TORN)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn failure(path: &Path, what: &'static str, source: io::Error) -> Error {
    Error::Kept { path: path.display().to_string(), what, source }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_kept_is_there_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        assert!(Kept::<String>::reader(path.clone()).list().unwrap().is_empty(), "nobody has been here yet");
        let kept = Kept::open(path.clone()).unwrap();
        let (one, torn) = (ContainerUuid(Uuid::new_v4()), ContainerUuid(Uuid::new_v4()));
        kept.write(one, &"before".to_owned()).unwrap();
        kept.write(one, &"now".to_owned()).unwrap();
        fs::write(path.join(name(torn)), "{").unwrap();
        fs::write(path.join("stranger.json"), "\"x\"").unwrap();
        let half_written = path.join(format!("{}.new.77", name(one)));
        fs::write(&half_written, "{").unwrap();
        assert_eq!(Kept::open(path).unwrap().list().unwrap(), [(one, "now".to_owned())]);
        assert!(!half_written.exists());
        assert_eq!(kept.find(one).unwrap().as_deref(), Some("now"));
        assert!(kept.find(torn).is_err());
        kept.forget(one).unwrap();
        kept.forget(one).unwrap();
        assert!(kept.find(one).unwrap().is_none());
        assert!(kept.list().unwrap().is_empty());
    }
}
