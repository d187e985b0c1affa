//! `container_get_archive` and `container_put_archive`: files of a container as a tar archive, whether or not it runs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::Container;
use sandbox::{FileStat, Sandbox, SandboxSpec};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use super::{Zun, call_turn};
use crate::containers::{Core, Provision};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::executor::require_created;
use crate::options::Kata;
use crate::record::sandbox_name;
use crate::volumes::inject_files;

const MEBIBYTE: u64 = 1 << 20;
/// How long the work on a container's files may take. Who waits for it gives up long before; what a guest does is not waited for
/// without end.
const WORK_TIMEOUT: Duration = Duration::from_secs(3600);

/// Reaches the files of containers.
#[derive(Clone)]
pub struct Files {
    core: Arc<Core<Zun>>,
    kata: Arc<Kata>,
}

impl Files {
    /// Files of the containers of `core`.
    pub fn new(core: Arc<Core<Zun>>, kata: Arc<Kata>) -> Self {
        Self { core, kata }
    }

    /// `container_get_archive`: the archive, in base64 if `encode` says so, and what Docker says of the path.
    pub async fn get(&self, row: &Container, path: &str, encode: bool) -> Result<Value> {
        let (id, bytes_max) = (sandbox_name(row.uuid), self.archive_bytes_max());
        let packed = self.with(row, async |sandbox| Ok(sandbox.pack(&id, path, bytes_max).await?));
        let (stat, archive) = packed.await?;
        let data = tokio::task::spawn_blocking(move || read_all(archive, bytes_max)).await;
        let data = data.map_err(|e| Error::Conflict(format!("the archive could not be read: {e}")))??;
        let data = match encode {
            true => STANDARD.encode(data),
            false => String::from_utf8(data).map_err(|_| {
                let reason = "an archive that is no text needs version 1.25 of the API, or a later one";
                Error::invalid("encode_data", reason)
            })?,
        };
        Ok(json!([data, docker_stat(&stat)]))
    }

    /// `container_put_archive`.
    pub async fn put(&self, row: &Container, path: &str, data: Vec<u8>) -> Result<()> {
        if data.len() as u64 > self.archive_bytes_max() {
            let reason = format!("the archive is larger than {} bytes", self.archive_bytes_max());
            return Err(Error::invalid("data", reason));
        }
        let id = sandbox_name(row.uuid);
        let unpack = async |sandbox: &Sandbox| {
            let mut archive: File = sandbox.nameless_file()?;
            let write = move || {
                archive.write_all(&data)?;
                archive.seek(SeekFrom::Start(0)).map(|_| archive)
            };
            let written = tokio::task::spawn_blocking(write).await;
            let written =
                written.map_err(|e| Error::Conflict(format!("the archive could not be written: {e}")))?;
            let archive = written.map_err(Error::Archive)?;
            Ok(sandbox.unpack(&id, path, &archive).await?)
        };
        self.with(row, unpack).await
    }

    /// Does `work` on the files of a container. One that runs is worked on beside whatever else is done to it. One that does not
    /// run gets a guest for as long as that takes, and one that is paused goes on for a moment: both in its turn.
    pub async fn with<T>(&self, row: &Container, work: impl AsyncFnOnce(&Sandbox) -> Result<T>) -> Result<T> {
        require_created(row)?;
        let sandbox = self.core.engine.sandbox(row.uuid);
        let work = async |sandbox: &Sandbox| {
            timeout(WORK_TIMEOUT, work(sandbox)).await.unwrap_or_else(|_| {
                Err(Error::Conflict(format!("container {} did not hand over its files in time", row.uuid)))
            })
        };
        let status = sandbox.status().await;
        if !status.is_paused() && status.runs(sandbox.id()) {
            return work(&sandbox).await;
        }
        let turn = call_turn(&self.core.turns, row.uuid).await?;
        let work = async |sandbox: &Sandbox| {
            tokio::select! {
                done = work(sandbox) => done,
                () = turn.hurried() => Err(Error::GivenUp { subject: "the work on files" }),
            }
        };
        let row = self.core.row(row.uuid).await?;
        require_created(&row)?;
        match sandbox.status().await {
            status if status.is_paused() && status.runs(sandbox.id()) => {
                sandbox.resume().await?;
                let done = work(&sandbox).await;
                sandbox.pause().await?;
                done
            }
            status if status.runs(sandbox.id()) => work(&sandbox).await,
            status if status.may_live() => Err(Error::Unanswered(row.uuid)),
            _ => self.visit(&sandbox, &row, work).await,
        }
    }

    async fn visit<T>(
        &self,
        sandbox: &Sandbox,
        row: &Container,
        work: impl AsyncFnOnce(&Sandbox) -> Result<T>,
    ) -> Result<T> {
        let record = self.core.engine.record(row.uuid)?;
        let main = record.member(sandbox.id())?;
        let volumes = self.core.provision.disks(row, &record).await?;
        let spec = SandboxSpec { volumes, ..record.sandbox_spec(&self.kata).without_network() };
        let visit = async || {
            inject_files(sandbox, &record).await?;
            work(sandbox).await
        };
        sandbox.visit(&spec, &main.container, visit).await
    }

    fn archive_bytes_max(&self) -> u64 {
        self.kata.archive_size_max * MEBIBYTE
    }
}

/// The archive that a shim has written, which was told how large it may be.
fn read_all(archive: File, bytes_max: u64) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    archive.take(bytes_max.saturating_add(1)).read_to_end(&mut data).map_err(Error::Archive)?;
    if data.len() as u64 > bytes_max {
        return Err(Error::Conflict(format!("the archive has more than {bytes_max} bytes")));
    }
    Ok(data)
}

/// What Docker says of a path. Its modes are Go's: the type is in other bits than Linux's.
fn docker_stat(stat: &FileStat) -> Value {
    const SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let kind = match stat.mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        0o020_000 => 1 << 26 | 1 << 21,
        _ => 0_u32,
    };
    let special = SPECIAL.iter().filter(|(linux, _)| stat.mode & linux != 0).fold(0, |all, (_, go)| all | go);
    let nanoseconds = i128::from(stat.mtime) * 1_000_000_000 + i128::from(stat.mtime_nanoseconds);
    let mtime = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok();
    json!({
        "name": stat.name,
        "size": stat.size,
        "mode": kind | special | stat.mode & 0o777,
        "mtime": mtime.and_then(|mtime| mtime.format(&Rfc3339).ok()),
        "linkTarget": stat.link_target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_not_read_beyond_its_bound() {
        let archive = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            file
        };
        assert_eq!(read_all(archive(b"tar"), 3).unwrap(), b"tar");
        let error = read_all(archive(b"tar!"), 3).unwrap_err().to_string();
        assert!(error.contains("more than 3 bytes"), "{error}");
    }

    #[test]
    fn a_paths_mode_is_gos() {
        let stat = |mode| {
            let stat = FileStat {
                name: "x".into(),
                size: 7,
                mode,
                mtime: 10,
                mtime_nanoseconds: 500_000_000,
                link_target: String::new(),
            };
            docker_stat(&stat)
        };
        let file = stat(0o100_644);
        assert_eq!((file["mode"].as_u64(), &file["mtime"]), (Some(0o644), &json!("1970-01-01T00:00:10.5Z")));
        assert_eq!(stat(0o040_755)["mode"].as_u64(), Some(2_147_484_141));
        assert_eq!(stat(0o120_777)["mode"].as_u64(), Some((1 << 27) + 0o777));
        assert_eq!(stat(0o104_755)["mode"].as_u64(), Some((1 << 23) + 0o755));
    }
}
