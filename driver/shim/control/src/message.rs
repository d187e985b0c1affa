use std::io;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::plan::{DiskSlot, Network, RateLimit};
use crate::state::{ContainerExit, SandboxState};

/// Longest line; an `exec`'s output and a specification fit.
const LINE_MAX: u64 = 16 << 20;

/// What a controller asks of a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What the sandbox is doing. Answer: [`Answer::State`].
    State,
    /// Wait until the sandbox is no longer booting. Answer: [`Answer::State`].
    WaitReady,
    /// Put the disk that comes with the request into a free slot. Answer: [`Answer::Disk`].
    InsertDisk(InsertDisk),
    /// Where the guest has the disk of this name. Answer: [`Answer::Disk`].
    FindDisk(String),
    /// Take the disk of this name, which the guest does not use any more, out of its slot. Idempotent: succeeds if there is none.
    EjectDisk(String),
    /// Put the tap that comes with the request into a free slot. The guest is set up with [`Request::SetNetwork`].
    InsertNic(InsertNic),
    /// Let the guest no longer use the interface of this hardware address, and disconnect it.
    /// Idempotent: succeeds if there is none.
    EjectNic(String),
    /// Let the guest use its interfaces: tell it what they have, where its packets go and how others are called.
    SetNetwork(Box<Network>),
    /// Make a container; its process waits.
    CreateContainer(Box<CreateContainer>),
    /// Let a container's process run.
    StartContainer(String),
    /// Kill what is left of a container, and forget it. Idempotent: succeeds if there is none.
    RemoveContainer(String),
    /// Wait until a container's first process has ended. Answer: [`Answer::Exit`].
    WaitContainer(String),
    /// Signal a container.
    Signal(Signal),
    /// Run a process in a container to its end. Answer: [`Answer::Exec`].
    Exec(Box<Exec>),
    /// Connect to a container's first process. After the answer the connection carries what it writes, and the other way
    /// what it reads. Closing this direction is leaving.
    Attach(String),
    /// Run a process in a container and connect to it. After the answer the connection is as [`Request::Attach`]'s, and
    /// lasts until the process has ended. Closing this direction closes its input, and a terminal hangs up.
    Interact(Box<Interact>),
    /// Pack files of a container into the file that comes with the request. Answer: [`Answer::Packed`], or for its changes
    /// [`Answer::Done`].
    Pack(Pack),
    /// Unpack the archive that comes with the request in a container.
    Unpack(Unpack),
    /// Tell a process's terminal its size.
    Resize(Resize),
    /// Change what a container, and the guest for it, may use.
    Update(Box<Update>),
    /// What a container uses. Answer: [`Answer::Stats`].
    Stats(String),
    /// The processes of a container. Answer: [`Answer::Processes`].
    Processes(String),
    /// What went through the sandbox's disks and interfaces. Answer: [`Answer::Traffic`].
    Traffic,
    /// Stop the guest's processors; until they go on, nothing can be asked of its containers.
    Pause,
    /// Let them go on.
    Resume,
    /// End the guest in order, and the shim with it.
    Shutdown,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// The sandbox's state.
    State(SandboxState),
    /// Where the guest finds a disk.
    Disk(PathBuf),
    /// How a container ended.
    Exit(ContainerExit),
    /// What a process printed.
    Exec(ExecResult),
    /// What a container uses.
    Stats(Stats),
    /// The processes of a container.
    Processes(Vec<ContainerProcess>),
    /// What went through disks and interfaces.
    Traffic(Vec<DeviceTraffic>),
    /// A process took longer than it may.
    TimedOut,
    /// What was packed.
    Packed(FileStat),
    /// An archive could not be made of what was named, or not be unpacked there; the text says why.
    BadArchive(String),
    /// It could not be done; the text says what and why.
    Failed(String),
}

/// A disk to put into a slot: a raw image, which comes as an open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsertDisk {
    /// What it is called in this sandbox.
    pub name: String,
    /// What the guest may do with it.
    pub access: DiskSlot,
    /// What the guest may move, reads and writes together.
    pub limit: RateLimit,
}

/// An interface to put into a slot. Its tap comes as open files, one for each of its queues, and where the host's kernel
/// moves the packets an open `/dev/vhost-net` for each follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsertNic {
    /// The guest's hardware address.
    pub mac: String,
    /// What the tap is called on the host, for messages.
    pub tap: String,
    /// How many of its queues come.
    pub queues: u8,
    /// What the guest may move, in each direction.
    pub limit: RateLimit,
}

/// A container to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreateContainer {
    /// Its identifier.
    pub id: String,
    /// Its specification; paths are the guest's.
    pub spec: Spec,
    /// Its user, by names or numbers that the guest looks up.
    pub user: ContainerUser,
    /// File systems that the guest mounts first.
    pub storages: Vec<Storage>,
    /// Whether its input stays open.
    pub input: ProcessInput,
    /// Whether its processes are in the sandbox's PID namespace. Otherwise the specification says where.
    pub shares_pids: bool,
}

/// A user as an image or a request names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    /// Name or number.
    pub user: String,
    /// Name or number; empty is the user's own group.
    pub group: String,
}

/// What a process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessInput {
    /// An end of file at once.
    Closed,
    /// What a client will send.
    Open,
}

/// A file system to mount in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// How the guest finds it.
    pub driver: StorageDriver,
    /// File system type.
    pub fstype: String,
    /// Mount options.
    pub options: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
}

/// How the guest finds a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageDriver {
    /// On this disk.
    Block(PathBuf),
    /// A union of earlier ones, which needs these directories made.
    Overlay(Vec<PathBuf>),
    /// It is none, but a directory that is made in an earlier one.
    Directory,
}

/// A signal to send.
#[derive(Debug, Serialize, Deserialize)]
pub struct Signal {
    /// The container.
    pub container: String,
    /// Linux's number on x86-64.
    pub number: u32,
    /// Which of its processes.
    pub target: SignalTarget,
}

/// Which processes a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The container's first process.
    First,
    /// All of them.
    All,
}

/// A process to run in a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub container: String,
    /// The process.
    pub process: Process,
    /// Its user.
    pub user: ContainerUser,
    /// How long it may take, if it is waited for; then it is killed.
    #[serde(default)]
    pub time_limit: Option<Duration>,
}

/// A process to run and to connect to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Interact {
    /// What the process is called in its container.
    pub id: String,
    /// The process.
    pub exec: Exec,
    /// What it reads.
    pub input: ProcessInput,
    /// Its terminal's size to begin with.
    pub size: Option<WindowSize>,
}

/// Files to pack.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pack {
    /// The container.
    pub container: String,
    /// Which of its files.
    pub what: Packed,
    /// Longest archive in bytes.
    pub bytes_max: u64,
}

/// Which files of a container are packed.
#[derive(Debug, Serialize, Deserialize)]
pub enum Packed {
    /// What is at a path, as the container sees it.
    Path(String),
    /// What it has changed in its image, as a layer. Meanwhile its processes stand still.
    Changes,
}

/// Where to unpack.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unpack {
    /// The container.
    pub container: String,
    /// A directory as the container sees it.
    pub path: String,
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Its name.
    pub name: String,
    /// Bytes, as its file system has them.
    pub size: u64,
    /// Type and permissions (inode(7)).
    pub mode: u32,
    /// When it was last written, in seconds since the epoch.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanoseconds: u32,
    /// Where it leads, if it is a symbolic link.
    pub link_target: String,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A terminal's new size.
#[derive(Debug, Serialize, Deserialize)]
pub struct Resize {
    /// The container.
    pub container: String,
    /// The process; none is the container's first.
    pub exec: Option<String>,
    /// The size.
    pub size: WindowSize,
}

/// What a container is to have from now on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Update {
    /// The container.
    pub container: String,
    /// What it may use.
    pub resources: LinuxResources,
    /// CPUs that the guest needs for that. It keeps those that it has.
    pub vcpus: u8,
    /// Memory in MiB that the guest needs for that. It keeps what it began with.
    pub memory_mib: u64,
}

/// How a process went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Both outputs in the order in which they came, at most 1 MiB; bytes that are not UTF-8 are replaced.
    pub output: String,
    /// 0 to 255, or 128 and a signal's number.
    pub status: i32,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Of it, bytes of files that nobody has used for a while.
    pub inactive_file_bytes: u64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: u64,
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
    /// Processes.
    pub pids: u64,
    /// Bytes read from disks.
    pub block_read_bytes: u64,
    /// Bytes written to disks.
    pub block_write_bytes: u64,
    /// Interfaces.
    pub network: Vec<NetworkCounters>,
}

/// A process as its container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerProcess {
    /// Its number.
    pub pid: u32,
    /// Its parent's, 0 for one outside the container.
    pub ppid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group. This and what else has a default is not told by guests that were started by an earlier version.
    #[serde(default)]
    pub gid: u32,
    /// Its process group.
    #[serde(default)]
    pub process_group: u32,
    /// Its session.
    #[serde(default)]
    pub session: u32,
    /// A letter (proc(5)): `R` runs, `S` sleeps, and so on.
    pub state: char,
    /// Its terminal's device number, 0 for none.
    pub terminal: u32,
    /// Its priority, as the kernel has it.
    #[serde(default)]
    pub priority: i32,
    /// Its niceness.
    pub nice: i32,
    /// Threads.
    pub threads: u32,
    /// The processor on which it ran last.
    #[serde(default)]
    pub processor: u32,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// When it began, in seconds since the epoch.
    pub started: u64,
    /// Address space in KiB.
    pub virtual_kib: u64,
    /// Memory in KiB.
    pub resident_kib: u64,
    /// The program's name.
    pub name: String,
    /// The program with its arguments.
    pub command: String,
}

/// What went through a slot since something was put into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTraffic {
    /// What is in it: a disk by its name, an interface by its hardware address.
    pub device: String,
    /// To the guest: read from a disk, received from a network. An interface's is counted by the host.
    pub incoming: Flow,
    /// From the guest.
    pub outgoing: Flow,
}

/// What went through a device in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Bytes.
    pub bytes: u64,
    /// Requests, or packets.
    pub operations: u64,
}

/// What went through an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// Its name in the guest.
    pub name: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// Reads one message. None is the end of the stream.
pub async fn read_line<T: DeserializeOwned>(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let length = stream.take(LINE_MAX).read_until(b'\n', &mut line).await?;
    if length == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is cut off or too long"));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Writes one message.
pub async fn write_line(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_a_message_or_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = runtime.block_on(read_line::<Request>(&mut &bytes[..]));
            let _ = runtime.block_on(read_line::<Answer>(&mut &bytes[..]));
            let _ = serde_json::from_slice::<SandboxState>(bytes);
        });
    }

    #[tokio::test]
    async fn a_message_survives_the_socket() {
        let mut line = Vec::new();
        write_line(&mut line, &Request::StartContainer("a".into())).await.unwrap();
        let back: Option<Request> = read_line(&mut &line[..]).await.unwrap();
        assert!(matches!(back, Some(Request::StartContainer(id)) if id == "a"));
        assert!(read_line::<Request>(&mut &b""[..]).await.unwrap().is_none());
        assert!(
            read_line::<Request>(&mut &b"\"state\""[..]).await.is_err(),
            "a line without its end is cut off"
        );
        assert!(read_line::<Request>(&mut &b"{\"fly\":1}\n"[..]).await.is_err());
    }
}
