//! Volumes of a container. Those of provider `local` are files that its user hands over (`zun/volume/driver.py`): they are
//! put on the container's disk before it first runs, so that what it writes to them stays until it is rebuilt or deleted.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::{ContainerUuid, VolumeMapping};
use sandbox::Sandbox;
use serde_json::Value;
use tar::{Builder, Header};
use time::OffsetDateTime;

use super::Manager;
use super::dispatch::Arguments;
use crate::error::{Error, Result};
use crate::record::{InjectedFile, Record};

const LOCAL: &str = "local";
/// That of a file which Zun's own driver writes on its host.
const MODE: u32 = 0o644;

impl Manager {
    /// Gives a container the volumes that are asked for it, and says which files these are.
    pub(super) async fn take_volumes(
        &self,
        container: ContainerUuid,
        arguments: &Arguments,
    ) -> Result<Vec<InjectedFile>> {
        let volumes = requested(arguments.raw("requested_volumes"), container)?;
        // Those that are refused are the container's, too: their rows go when its creation is undone.
        for volume in &volumes {
            volume.create(&self.database, container).await?;
        }
        volumes.iter().map(injected).collect()
    }

    /// The files that a container was given when it was made.
    pub(super) async fn files_of(&self, container: ContainerUuid) -> Result<Vec<InjectedFile>> {
        VolumeMapping::list_by_container(&self.database, container).await?.iter().map(injected).collect()
    }
}

/// Volumes that a message asks for a container.
fn requested(volumes: &Value, container: ContainerUuid) -> Result<Vec<VolumeMapping>> {
    let own = volumes.get(container.to_string()).and_then(Value::as_array).into_iter().flatten();
    Ok(own.map(VolumeMapping::from_wire).collect::<std::result::Result<_, _>>()?)
}

/// Refuses volumes, where none can be given.
pub(super) fn refuse_volumes(arguments: &Arguments) -> Result<()> {
    let volumes = arguments.raw("requested_volumes").as_object();
    let has_volumes =
        volumes.is_some_and(|all| all.values().any(|list| list.as_array().is_some_and(|l| !l.is_empty())));
    if has_volumes { Err(Error::NotSupported("a volume of a capsule".into())) } else { Ok(()) }
}

/// The file that a volume is.
fn injected(volume: &VolumeMapping) -> Result<InjectedFile> {
    if volume.volume_provider != LOCAL {
        return Err(Error::NotSupported(format!("a volume of {}", volume.volume_provider)));
    }
    let given = volume.container_path.clone().unwrap_or_default();
    let path = below_root(Path::new(&given)).ok_or_else(|| {
        Error::Invalid(format!("destination {given:?} of a volume is no absolute path of a file"))
    })?;
    let contents = volume.contents.clone().unwrap_or_default();
    STANDARD
        .decode(&contents)
        .map_err(|e| Error::Invalid(format!("contents of the volume at {given:?}: {e}")))?;
    Ok(InjectedFile { path, contents })
}

/// An absolute path as seen from the root. None is given of one that is the root, ends with a slash or goes up.
fn below_root(path: &Path) -> Option<PathBuf> {
    let named = !path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if named && plain { path.strip_prefix("/").ok().map(Path::to_owned) } else { None }
}

/// Puts a container's files into it, while its process waits to run for the first time.
pub(super) async fn inject_files(sandbox: &Sandbox, record: &Record) -> Result<()> {
    if record.files.is_empty() {
        return Ok(());
    }
    let mut archive = sandbox.nameless_file()?;
    pack(&record.files, &mut archive).map_err(Error::Archive)?;
    archive.seek(SeekFrom::Start(0)).map_err(Error::Archive)?;
    sandbox.unpack(&record.container.id, "/", &archive).await?;
    let given = Record { files: Vec::new(), ..record.clone() };
    given.write(sandbox.path())
}

fn pack(files: &[InjectedFile], archive: &mut File) -> io::Result<()> {
    let mut builder = Builder::new(archive);
    for file in files {
        let contents = STANDARD.decode(&file.contents).map_err(io::Error::other)?;
        let mut header = Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(MODE);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0));
        builder.append_data(&mut header, &file.path, &contents[..])?;
    }
    builder.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn local(path: &str, contents: &str) -> VolumeMapping {
        VolumeMapping {
            volume_id: 1,
            volume_provider: LOCAL.into(),
            container_path: Some(path.into()),
            contents: Some(contents.into()),
            project_id: None,
            user_id: None,
        }
    }

    #[test]
    fn what_is_no_file_of_the_user_is_refused_by_name() {
        let file = injected(&local("/etc/app.conf", "aGVsbG8=")).unwrap();
        assert_eq!(file.path, Path::new("etc/app.conf"));
        for bad in ["", "/", "etc/app.conf", "/etc/", "/etc/../shadow", "/a/.."] {
            let error = injected(&local(bad, "")).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        let error = injected(&local("/x", "!")).unwrap_err().to_string();
        assert!(error.contains("\"/x\""), "{error}");
        let other = VolumeMapping { volume_provider: "cinder".into(), ..local("/x", "") };
        assert_eq!(
            injected(&other).unwrap_err().to_string(),
            "a volume of cinder is not supported by zun-kata-compute"
        );
    }

    #[test]
    fn files_are_packed_for_root_to_write_and_all_to_read() {
        let long = format!("/{}/name", "long".repeat(50));
        let files: Vec<_> = [("/etc/app.conf", "aGVsbG8="), (long.as_str(), "")]
            .map(|(p, c)| injected(&local(p, c)).unwrap())
            .into();
        let mut archive = tempfile::tempfile().unwrap();
        pack(&files, &mut archive).unwrap();
        archive.seek(SeekFrom::Start(0)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut unpacked = tar::Archive::new(archive);
        unpacked.set_preserve_permissions(true);
        unpacked.unpack(folder.path()).unwrap();
        let mut file = File::open(folder.path().join("etc/app.conf")).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((text.as_str(), metadata.permissions().mode() & 0o7777), ("hello", MODE));
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
        assert!(folder.path().join(long.trim_start_matches('/')).exists());
    }
}
