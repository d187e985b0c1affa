//! `container_get_archive` and `container_put_archive`: files of a container as a tar archive, whether or not it runs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::{Container, Status};
use sandbox::{FileStat, Sandbox};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Manager;
use super::dispatch::Arguments;
use super::steps::require_created;
use super::volumes::inject_files;
use crate::error::{Error, Result};

const MEBIBYTE: u64 = 1 << 20;

impl Manager {
    pub(super) async fn container_get_archive(
        &self,
        container: Container,
        arguments: &Arguments,
    ) -> Result<Value> {
        let path: String = arguments.get("path")?;
        let encode = arguments.get::<Option<bool>>("encode_data")?.unwrap_or(false);
        let (id, bytes_max) = (container.uuid.to_string(), self.archive_bytes_max());
        let packed =
            self.with_files(container, async |sandbox| Ok(sandbox.pack(&id, &path, bytes_max).await?));
        let (stat, mut archive) = packed.await?;
        let mut data = Vec::new();
        archive.read_to_end(&mut data).map_err(Error::Archive)?;
        let data = match encode {
            true => STANDARD.encode(data),
            false => String::from_utf8(data).map_err(|_| {
                Error::Invalid(
                    "an archive that is no text needs version 1.25 of the API, or a later one".into(),
                )
            })?,
        };
        Ok(json!([data, docker_stat(&stat)]))
    }

    pub(super) async fn container_put_archive(
        &self,
        container: Container,
        arguments: &Arguments,
    ) -> Result<()> {
        let path: String = arguments.get("path")?;
        let decode = arguments.get::<Option<bool>>("decode_data")?.unwrap_or(false);
        let data: String = arguments.get("data")?;
        let data = match decode {
            true => STANDARD.decode(data).map_err(|e| Error::Invalid(format!("data: {e}")))?,
            false => data.into_bytes(),
        };
        if data.len() as u64 > self.archive_bytes_max() {
            return Err(Error::Invalid(format!(
                "the archive is larger than {} bytes",
                self.archive_bytes_max()
            )));
        }
        let id = container.uuid.to_string();
        let unpack = async |sandbox: &Sandbox| {
            let mut archive: File = sandbox.nameless_file()?;
            let written = archive.write_all(&data).and_then(|()| archive.seek(SeekFrom::Start(0)));
            written.map_err(Error::Archive)?;
            Ok(sandbox.unpack(&id, &path, &archive).await?)
        };
        self.with_files(container, unpack).await
    }

    /// Does `work` on the files of a container. One that does not run gets a guest for as long as that takes.
    pub(super) async fn with_files<T>(
        &self,
        container: Container,
        work: impl AsyncFnOnce(&Sandbox) -> Result<T>,
    ) -> Result<T> {
        let turn = self.locks.lock(container.uuid).await;
        let container = self.fresh(container).await?;
        require_created(&container)?;
        if container.status == Status::Paused {
            let (action, status) = ("reach the files of", container.status);
            return Err(Error::State { action, container: container.uuid, status });
        }
        let sandbox = self.sandbox(container.uuid);
        if sandbox.situation().await.runs(&container.uuid.to_string()) {
            drop(turn);
            return work(&sandbox).await;
        }
        let record = self.record(container.uuid)?;
        let spec = record.sandbox_spec(&self.options.kata).without_network();
        let spec = self.with_volumes(spec, &container).await?;
        let visit = async || {
            inject_files(&sandbox, &record).await?;
            work(&sandbox).await
        };
        sandbox.visit(&spec, &record.container, visit).await
    }

    fn archive_bytes_max(&self) -> u64 {
        self.options.kata.archive_size_max * MEBIBYTE
    }
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
