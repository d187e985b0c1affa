//! Volumes of a container (`zun/volume/driver.py`). Those of provider `local` are files that its user hands over: they are
//! put on the container's disk before it first runs, so that what it writes to them stays until it is rebuilt or deleted.
//! Cinder's are disks of its sandbox.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::VolumeMapping;
use sandbox::{Sandbox, VolumeMount};
use tar::{Builder, Header};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::record::{InjectedFile, SandboxRecord};

const LOCAL: &str = "local";
const CINDER: &str = "cinder";
/// How long a guest may take to unpack the files that one container is given.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(180);
/// That of a file which Zun's own driver writes on its host.
const MODE: u32 = 0o644;

/// The files among a container's volumes.
pub fn files_of(volumes: &[VolumeMapping]) -> Result<Vec<InjectedFile>> {
    volumes.iter().filter(|volume| volume.volume_provider != CINDER).map(injected).collect()
}

/// Where a container sees Cinder's volumes.
pub fn mounts_of(volumes: &[VolumeMapping]) -> Result<Vec<VolumeMount>> {
    let mounts = volumes.iter().filter_map(|volume| {
        let mount = |id| Ok(VolumeMount { volume: disk_name(id), destination: folder(volume)? });
        Some(cinder_id(volume).transpose()?.and_then(mount))
    });
    mounts.collect()
}

/// What a volume is called in its sandbox.
pub fn disk_name(volume: Uuid) -> String {
    format!("volume-{volume}")
}

/// Cinder's identifier of a volume, if it is Cinder's.
pub fn cinder_id(volume: &VolumeMapping) -> Result<Option<Uuid>> {
    if volume.volume_provider != CINDER {
        return Ok(None);
    }
    let id = volume.cinder_volume_id.as_deref().unwrap_or_default();
    id.parse().map(Some).map_err(|_| Error::invalid("volume", format!("{id:?} is no volume of Cinder's")))
}

fn folder(volume: &VolumeMapping) -> Result<PathBuf> {
    let given = volume.container_path.clone().unwrap_or_default();
    below_root(Path::new(given.trim_end_matches('/')))
        .map(|path| Path::new("/").join(path))
        .ok_or_else(|| Error::invalid("container_path", format!("{given:?} is no absolute path of a folder")))
}

/// The file that a volume is.
fn injected(volume: &VolumeMapping) -> Result<InjectedFile> {
    if volume.volume_provider != LOCAL {
        return Err(Error::NotSupported(format!("a volume of {}", volume.volume_provider)));
    }
    let given = volume.container_path.clone().unwrap_or_default();
    let path = below_root(Path::new(&given)).ok_or_else(|| {
        Error::invalid("container_path", format!("{given:?} is no absolute path of a file"))
    })?;
    let contents = volume.contents.clone().unwrap_or_default();
    STANDARD
        .decode(&contents)
        .map_err(|e| Error::invalid("contents", format!("the file at {given:?}: {e}")))?;
    Ok(InjectedFile { path, contents })
}

/// An absolute path as seen from the root. `None` for the root, for a path that ends with a slash, and for one that goes up.
fn below_root(path: &Path) -> Option<PathBuf> {
    let named = !path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if named && plain { path.strip_prefix("/").ok().map(Path::to_owned) } else { None }
}

/// Puts the files of a sandbox's containers into them, while their processes wait to run for the first time.
pub async fn inject_files(sandbox: &Sandbox, record: &SandboxRecord) -> Result<()> {
    let mut given = record.clone();
    for member in given.members.iter_mut().filter(|member| !member.files.is_empty()) {
        let mut archive = sandbox.nameless_file()?;
        pack(&member.files, &mut archive).map_err(Error::Archive)?;
        archive.seek(SeekFrom::Start(0)).map_err(Error::Archive)?;
        let unpacked = timeout(UNPACK_TIMEOUT, sandbox.unpack(&member.container.id, "/", &archive)).await;
        unpacked.map_err(|_| Error::FilesNotTaken)??;
        member.files.clear();
    }
    let has_given = record.members.iter().any(|member| !member.files.is_empty());
    if has_given { given.write(sandbox.path()) } else { Ok(()) }
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
            cinder_volume_id: None,
            auto_remove: None,
            connection_info: None,
            container_path: Some(path.into()),
            contents: Some(contents.into()),
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
        let other = VolumeMapping { volume_provider: "nfs".into(), ..local("/x", "") };
        let error = files_of(&[other]).err().unwrap().to_string();
        assert_eq!(error, "a volume of nfs is not supported by zun-kata-compute");
    }

    #[test]
    fn a_volume_of_cinders_is_mounted_on_a_folder() {
        let id = "b9ad5e49-6e9e-4b7b-a73d-9b2d2c7fbd7c";
        let cinder = |path: &str, id: &str| VolumeMapping {
            volume_provider: CINDER.into(),
            cinder_volume_id: Some(id.into()),
            ..local(path, "")
        };
        let mounts = mounts_of(&[local("/x", ""), cinder("/data/", id)]).unwrap();
        let expected = VolumeMount { volume: format!("volume-{id}"), destination: "/data".into() };
        assert_eq!(mounts, [expected]);
        for bad in ["", "/", "data", "/data/../.."] {
            let error = mounts_of(&[cinder(bad, id)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        assert!(mounts_of(&[cinder("/data", "x")]).unwrap_err().to_string().contains("\"x\""));
        assert!(files_of(&[cinder("/data", id)]).unwrap().is_empty());
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
