//! Packs and unpacks files of a container, by a process of the guest's agent.

use std::fs::File;
use std::io::{Read, Write};

use agent_protocol::messages::archive_process_request::Direction;
use agent_protocol::messages::{ArchiveProcessRequest, PauseContainerRequest, ResumeContainerRequest};
use agent_protocol::service::AgentServiceClient;
use shim_control::{FileStat, LogStream, Pack, Unpack};
use uuid::Uuid;

use crate::agent::deadline;
use crate::containers::{close_input, read, signal_process, wait, write};
use crate::error::{Error, Result};

const SIGKILL: u32 = 9;
const PIECE_MAX: usize = 32 * 1024;
/// Most bytes of diagnostics that are read, enough for a path and a reason.
const DIAGNOSTICS_MAX: usize = 16 * 1024;

/// The result of packing or unpacking, or the reason why it failed in the guest.
pub type Outcome<T> = std::result::Result<T, String>;

/// Packs the file or folder at `path` into `archive`.
pub async fn pack(
    agent: &AgentServiceClient,
    pack: &Pack,
    path: &str,
    archive: File,
) -> Result<Outcome<FileStat>> {
    Ok(match fill(agent, pack, path, Direction::PACK, archive).await? {
        Ok(diagnostics) => Ok(serde_json::from_str(&diagnostics).map_err(Error::Stat)?),
        Err(reason) => Err(reason),
    })
}

/// Packs a container's changes to its image, while its processes are paused.
pub async fn pack_changes(agent: &AgentServiceClient, pack: &Pack, archive: File) -> Result<Outcome<()>> {
    let container = &pack.container;
    let pause = PauseContainerRequest { container_id: container.clone(), ..Default::default() };
    let filled = match agent.pause_container(deadline(), &pause).await {
        Ok(_) => fill(agent, pack, "", Direction::CHANGES, archive).await,
        Err(e) => Err(e.into()),
    };
    // Whether it was paused or not: an order that came too late may still stop it.
    let resume = ResumeContainerRequest { container_id: container.clone(), ..Default::default() };
    let resumed = agent.resume_container(deadline(), &resume).await;
    let filled = filled?;
    resumed?;
    Ok(filled.map(drop))
}

/// Copies the output of a packing process into `archive`, and returns its diagnostics.
async fn fill(
    agent: &AgentServiceClient,
    pack: &Pack,
    path: &str,
    direction: Direction,
    mut archive: File,
) -> Result<Outcome<String>> {
    let process = Archiver::start(agent, &pack.container, path, direction).await?;
    let copy = async {
        let mut length = 0;
        while let Some(data) = process.read(LogStream::Stdout).await {
            length += data.len() as u64;
            if length > pack.bytes_max {
                return Ok(Err(format!("the archive is larger than {} bytes", pack.bytes_max)));
            }
            archive.write_all(&data).map_err(Error::io("write the archive"))?;
        }
        Ok::<_, Error>(Ok(()))
    };
    let copy_or_end = async {
        let copied = copy.await;
        if !matches!(copied, Ok(Ok(()))) {
            // It would wait for ever for somebody to read on.
            signal_process(agent, &pack.container, &process.id, SIGKILL).await?;
        }
        copied
    };
    let (copied, diagnostics) = tokio::join!(copy_or_end, process.diagnostics());
    let status = wait(agent, &pack.container, &process.id).await?;
    Ok(match copied? {
        Err(reason) => Err(reason),
        Ok(()) if status != 0 => Err(diagnostics),
        Ok(()) => Ok(diagnostics),
    })
}

/// Unpacks `archive`.
pub async fn unpack(agent: &AgentServiceClient, unpack: &Unpack, mut archive: File) -> Result<Outcome<()>> {
    let process = Archiver::start(agent, &unpack.container, &unpack.path, Direction::UNPACK).await?;
    let copy = async {
        let mut piece = vec![0; PIECE_MAX];
        loop {
            let length = archive.read(&mut piece).map_err(Error::io("read the archive"))?;
            // A process that has reached the archive's end, or failed, reads no more.
            if length == 0 || write(agent, &unpack.container, &process.id, &piece[..length]).await.is_err() {
                return close_input(agent, &unpack.container, &process.id).await;
            }
        }
    };
    let (copied, diagnostics) = tokio::join!(copy, process.diagnostics());
    let status = wait(agent, &unpack.container, &process.id).await?;
    copied?;
    Ok(if status == 0 { Ok(()) } else { Err(diagnostics) })
}

/// The process in the guest.
struct Archiver<'a> {
    agent: &'a AgentServiceClient,
    container: &'a str,
    id: String,
}

impl<'a> Archiver<'a> {
    async fn start(
        agent: &'a AgentServiceClient,
        container: &'a str,
        path: &str,
        direction: Direction,
    ) -> Result<Self> {
        let id = Uuid::new_v4().to_string();
        let request = ArchiveProcessRequest {
            container_id: container.to_owned(),
            exec_id: id.clone(),
            path: path.to_owned(),
            direction: direction.into(),
            ..Default::default()
        };
        agent.archive_process(deadline(), &request).await?;
        Ok(Self { agent, container, id })
    }

    async fn read(&self, stream: LogStream) -> Option<Vec<u8>> {
        read(self.agent, self.container, &self.id, stream).await
    }

    async fn diagnostics(&self) -> String {
        let mut all = Vec::new();
        while let Some(data) = self.read(LogStream::Stderr).await {
            let room = DIAGNOSTICS_MAX - all.len();
            all.extend_from_slice(&data[..data.len().min(room)]);
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}
