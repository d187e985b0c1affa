use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::UnixStream;

use crate::message::{
    Answer, ContainerProcess, CreateContainer, DeviceTraffic, Exec, ExecResult, FileStat, InsertDisk,
    InsertNic, Interact, Pack, Request, Resize, Signal, Stats, Unpack, Update, read_line,
};
use crate::passing::send_request;
use crate::plan::Network;
use crate::state::{ContainerExit, SandboxState};

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ClientError {
    #[error("the sandbox's shim does not answer: {0}")]
    Gone(#[source] io::Error),
    #[error("the sandbox's shim has not answered within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Archive(String),
    #[error("the process took too long and was killed")]
    TimedOut,
    #[error("the sandbox's shim gave an answer to another question")]
    Confused,
}

/// How long a shim may take to accept a connection and to read a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to answer from what it knows.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to ask its guest.
const GUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to do what can wait for storage: longer than storage that does not answer is waited for.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(180);

/// How long it may take to pack or unpack files, of which there may be many GiB.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long the answer to a request may take; none is as long as the caller waits.
fn patience(request: &Request) -> Option<Duration> {
    match request {
        Request::State => Some(KNOWN_TIMEOUT),
        Request::FindDisk(_)
        | Request::Traffic
        | Request::Signal(_)
        | Request::Attach(_)
        | Request::Interact(_)
        | Request::Resize(_)
        | Request::Stats(_)
        | Request::Processes(_)
        | Request::SetNetwork(_)
        | Request::InsertNic(_)
        | Request::EjectNic(_) => Some(GUEST_TIMEOUT),
        Request::InsertDisk(_)
        | Request::EjectDisk(_)
        | Request::CreateContainer(_)
        | Request::StartContainer(_)
        | Request::RemoveContainer(_)
        | Request::Update(_)
        | Request::Pause
        | Request::Resume
        | Request::Shutdown => Some(STORAGE_TIMEOUT),
        Request::Pack(_) | Request::Unpack(_) => Some(ARCHIVE_TIMEOUT),
        Request::WaitReady | Request::WaitContainer(_) | Request::Exec(_) => None,
    }
}

/// Most characters of a shim's reason that are repeated: it may be anybody's by now.
const REASON_MAX: usize = 1000;

fn brief(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

/// What a process reads and writes.
pub type Connection = BufReader<UnixStream>;

/// A controller's end of the control socket.
#[derive(Debug, Clone)]
pub struct Client(PathBuf);

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client of the shim that listens at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self(socket)
    }

    /// What the sandbox is doing.
    pub async fn state(&self) -> Result<SandboxState> {
        match self.ask(&Request::State).await? {
            Answer::State(state) => Ok(state),
            _ => Err(ClientError::Confused),
        }
    }

    /// Waits until the sandbox is no longer booting.
    pub async fn wait_ready(&self) -> Result<SandboxState> {
        match self.ask(&Request::WaitReady).await? {
            Answer::State(state) => Ok(state),
            _ => Err(ClientError::Confused),
        }
    }

    /// Puts a disk into a free slot, and gives the path by which the guest knows it.
    pub async fn insert_disk(&self, disk: InsertDisk, image: &File) -> Result<PathBuf> {
        match self.ask_with(&Request::InsertDisk(disk), &[image.as_fd()]).await? {
            Answer::Disk(path) => Ok(path),
            _ => Err(ClientError::Confused),
        }
    }

    /// The path by which the guest knows a disk that is in a slot.
    pub async fn find_disk(&self, name: &str) -> Result<PathBuf> {
        match self.ask(&Request::FindDisk(name.to_owned())).await? {
            Answer::Disk(path) => Ok(path),
            _ => Err(ClientError::Confused),
        }
    }

    /// Takes a disk out of its slot.
    pub async fn eject_disk(&self, name: &str) -> Result<()> {
        self.order(&Request::EjectDisk(name.to_owned())).await
    }

    /// Puts an interface into a free slot.
    pub async fn insert_nic(&self, nic: InsertNic, taps: &[File], data_paths: &[File]) -> Result<()> {
        let files: Vec<_> = taps.iter().chain(data_paths).map(File::as_fd).collect();
        match self.ask_with(&Request::InsertNic(nic), &files).await? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::Confused),
        }
    }

    /// Takes an interface out of its slot.
    pub async fn eject_nic(&self, mac: &str) -> Result<()> {
        self.order(&Request::EjectNic(mac.to_owned())).await
    }

    /// [`Request::SetNetwork`].
    pub async fn set_network(&self, network: Network) -> Result<()> {
        self.order(&Request::SetNetwork(Box::new(network))).await
    }

    /// Makes a container.
    pub async fn create_container(&self, container: CreateContainer) -> Result<()> {
        self.order(&Request::CreateContainer(Box::new(container))).await
    }

    /// Lets a container's process run.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.order(&Request::StartContainer(id.to_owned())).await
    }

    /// Kills what is left of a container, and forgets it.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.order(&Request::RemoveContainer(id.to_owned())).await
    }

    /// Waits until a container has ended.
    pub async fn wait_container(&self, id: &str) -> Result<ContainerExit> {
        match self.ask(&Request::WaitContainer(id.to_owned())).await? {
            Answer::Exit(exit) => Ok(exit),
            _ => Err(ClientError::Confused),
        }
    }

    /// Signals a container.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.order(&Request::Signal(signal)).await
    }

    /// Runs a process to its end.
    pub async fn exec(&self, exec: Exec) -> Result<ExecResult> {
        match self.ask(&Request::Exec(Box::new(exec))).await? {
            Answer::Exec(result) => Ok(result),
            Answer::TimedOut => Err(ClientError::TimedOut),
            _ => Err(ClientError::Confused),
        }
    }

    /// Packs files of a container into `archive`.
    pub async fn pack(&self, pack: Pack, archive: &File) -> Result<FileStat> {
        match self.ask_with(&Request::Pack(pack), &[archive.as_fd()]).await? {
            Answer::Packed(stat) => Ok(stat),
            Answer::BadArchive(reason) => Err(ClientError::Archive(brief(&reason))),
            _ => Err(ClientError::Confused),
        }
    }

    /// Packs what a container has changed in its image into `archive`.
    pub async fn pack_changes(&self, pack: Pack, archive: &File) -> Result<()> {
        self.order_archive(&Request::Pack(pack), archive).await
    }

    /// Unpacks `archive` in a container.
    pub async fn unpack(&self, unpack: Unpack, archive: &File) -> Result<()> {
        self.order_archive(&Request::Unpack(unpack), archive).await
    }

    async fn order_archive(&self, request: &Request, archive: &File) -> Result<()> {
        match self.ask_with(request, &[archive.as_fd()]).await? {
            Answer::Done => Ok(()),
            Answer::BadArchive(reason) => Err(ClientError::Archive(brief(&reason))),
            _ => Err(ClientError::Confused),
        }
    }

    /// Connects to a container's first process.
    pub async fn attach(&self, id: &str) -> Result<Connection> {
        self.connect_to(&Request::Attach(id.to_owned())).await
    }

    /// Runs a process and connects to it.
    pub async fn interact(&self, interact: Interact) -> Result<Connection> {
        self.connect_to(&Request::Interact(Box::new(interact))).await
    }

    /// Tells a process's terminal its size.
    pub async fn resize(&self, resize: Resize) -> Result<()> {
        self.order(&Request::Resize(resize)).await
    }

    /// Changes what a container may use.
    pub async fn update(&self, update: Update) -> Result<()> {
        self.order(&Request::Update(Box::new(update))).await
    }

    /// The processes of a container.
    pub async fn processes(&self, id: &str) -> Result<Vec<ContainerProcess>> {
        match self.ask(&Request::Processes(id.to_owned())).await? {
            Answer::Processes(processes) => Ok(processes),
            _ => Err(ClientError::Confused),
        }
    }

    /// What a container uses.
    pub async fn stats(&self, id: &str) -> Result<Stats> {
        match self.ask(&Request::Stats(id.to_owned())).await? {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(ClientError::Confused),
        }
    }

    /// What went through the sandbox's disks and interfaces.
    pub async fn traffic(&self) -> Result<Vec<DeviceTraffic>> {
        match self.ask(&Request::Traffic).await? {
            Answer::Traffic(traffic) => Ok(traffic),
            _ => Err(ClientError::Confused),
        }
    }

    /// Stops the guest's processors.
    pub async fn pause(&self) -> Result<()> {
        self.order(&Request::Pause).await
    }

    /// Lets them go on.
    pub async fn resume(&self) -> Result<()> {
        self.order(&Request::Resume).await
    }

    /// Ends the sandbox in order.
    pub async fn shutdown(&self) -> Result<()> {
        self.order(&Request::Shutdown).await
    }

    async fn order(&self, request: &Request) -> Result<()> {
        match self.ask(request).await? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::Confused),
        }
    }

    async fn connect_to(&self, request: &Request) -> Result<Connection> {
        match self.exchange(request, &[]).await? {
            (Answer::Done, connection) => Ok(connection),
            _ => Err(ClientError::Confused),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer> {
        self.ask_with(request, &[]).await
    }

    async fn ask_with(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Answer> {
        Ok(self.exchange(request, files).await?.0)
    }

    async fn exchange(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(Answer, Connection)> {
        let send = async {
            let mut stream = UnixStream::connect(&self.0).await?;
            send_request(&mut stream, request, files).await?;
            Ok(BufReader::new(stream))
        };
        let mut stream = within(Some(SEND_TIMEOUT), send).await?;
        let receive = async {
            read_line(&mut stream).await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        match within(patience(request), receive).await? {
            Answer::Failed(reason) => Err(ClientError::Refused(brief(&reason))),
            answer => Ok((answer, stream)),
        }
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> Result<T> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| ClientError::Silent(limit))?,
    }
    .map_err(ClientError::Gone)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_is_silent_is_not_waited_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let client = Client::new(socket.clone());
        let error = client.state().await.unwrap_err();
        assert_eq!(error.to_string(), "the sandbox's shim has not answered within 5 s");
        assert!(matches!(client.pause().await, Err(ClientError::Silent(STORAGE_TIMEOUT))));
        let gone = Client::new(folder.path().join("none")).state().await;
        assert!(matches!(gone, Err(ClientError::Gone(_))));
    }
}
