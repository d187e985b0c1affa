//! A worker: the process without rights in which images are read and file systems are written.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use image_work::{Fault, FoundImage, LINE_MAX, Layer, Limits, Order, Piece, Report, Save};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{Error, Result};

/// `O_NOFOLLOW` (`asm-generic/fcntl.h`).
const NOT_THROUGH_A_LINK: i32 = 0o400_000;
/// Bytes that are kept of a worker's diagnostics.
const SAID_MAX: u64 = 16 << 10;
/// How long a worker may take to end once it has no more orders.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds by the clock for each of processor time: many workers may share the processors.
const CLOCK_FACTOR: u64 = 10;
/// Where file systems and archives are written.
const OUT: &str = "out";
/// What Rust says where there is no more memory.
const OUT_OF_MEMORY: &str = "memory allocation";

/// How images are read on this host.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The worker's program.
    pub program: PathBuf,
    /// The user, and the group, that it runs as.
    pub user: u32,
    /// Bytes of memory that it may take.
    pub memory: u64,
    /// Seconds of processor time that an image may take; by the clock it may take [`CLOCK_FACTOR`] times as many.
    pub seconds: u64,
    /// How large an image may be.
    pub limits: Limits,
}

#[cfg(test)]
impl WorkerOptions {
    /// Of a test in which no image is read.
    pub(crate) fn none() -> Self {
        let limits = Limits { bytes: 0, tree: image_work::TreeLimits::default() };
        Self { program: "/none".into(), user: 0, memory: 0, seconds: 0, limits }
    }
}

/// A worker for one image.
pub struct Worker {
    image: String,
    options: WorkerOptions,
    inputs: Inputs,
    process: Process,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
    said: JoinHandle<String>,
    /// Orders that have no report yet.
    pending: VecDeque<Pending>,
    /// What has come of the next report.
    line: Vec<u8>,
}

/// A worker's process, and the folder that it writes to, which goes after it.
struct Process {
    running: Option<(Child, TempDir)>,
}

impl Process {
    /// Waits until it has ended, if that comes soon.
    async fn end(&mut self) -> Option<ExitStatus> {
        let (child, _) = self.running.as_mut()?;
        timeout(END_TIMEOUT, child.wait()).await.ok()?.ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some((mut child, folder)) = self.running.take() else { return };
        let killed = child.start_kill();
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if killed.is_ok() && timeout(END_TIMEOUT, child.wait()).await.is_err() {
                tracing::warn!(folder = %folder.path().display(), "a worker does not end");
            }
            // It may hold gigabytes.
            let _ = tokio::task::spawn_blocking(move || drop(folder)).await;
        });
    }
}

/// An order that has no report yet.
struct Pending {
    what: &'static str,
    /// A file that nobody reads any more once it is carried out.
    file: Option<PathBuf>,
}

/// Makes files that a worker may read.
#[derive(Clone)]
pub struct Inputs {
    folder: PathBuf,
    user: u32,
    count: Arc<AtomicU32>,
}

impl Inputs {
    /// A new file, and its name.
    pub fn create(&self) -> Result<(File, String)> {
        let name = format!("in-{}", self.count.fetch_add(1, Ordering::Relaxed));
        let path = self.folder.join(&name);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let given = file.and_then(|file| give(&file, self.user).map(|()| file));
        Ok((given.map_err(Error::io("make", path))?, name))
    }
}

impl Worker {
    /// Starts one that has its files in `folder`. Errors call its image `image`.
    pub async fn start(image: &str, folder: TempDir, options: &WorkerOptions) -> Result<Self> {
        give(&File::open(folder.path()).map_err(Error::io("open", folder.path()))?, options.user)
            .map_err(Error::io("hand over", folder.path()))?;
        let mut child = Command::new(&options.program)
            .args(["--user", &options.user.to_string(), "--memory", &options.memory.to_string()])
            .args(["--seconds", &options.seconds.to_string()])
            .args(["--file-size", &options.limits.bytes.saturating_mul(2).to_string()])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            // Its memory is bounded: what the C library keeps for each thread counts.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("run", &options.program))?;
        let lost = || Error::Lost(image.to_owned());
        let (orders, reports) = (child.stdin.take().ok_or_else(lost)?, child.stdout.take().ok_or_else(lost)?);
        let said = tokio::spawn(diagnostics(child.stderr.take().ok_or_else(lost)?));
        let inputs = Inputs { folder: folder.path().to_owned(), user: options.user, count: Arc::default() };
        let mut worker = Self {
            image: image.to_owned(),
            options: options.clone(),
            inputs,
            process: Process { running: Some((child, folder)) },
            orders,
            reports: BufReader::new(reports),
            said,
            pending: VecDeque::new(),
            line: Vec::new(),
        };
        worker.order("begin", None, &Order::Begin(options.limits)).await?;
        Ok(worker)
    }

    /// Most bytes of an image.
    pub fn bytes_max(&self) -> u64 {
        self.options.limits.bytes
    }

    /// Its files.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Finds the image in an archive.
    pub async fn read(&mut self, archive: String) -> Result<FoundImage> {
        match self.ask("read the archive", &Order::Read(archive)).await? {
            Report::Image(image) => Ok(image),
            _ => Err(self.confused()),
        }
    }

    /// Adds the next layer, the lowest first. What goes wrong is told by [`Self::write`], or by [`Self::reported`].
    pub async fn add(&mut self, layer: Layer) -> Result<()> {
        self.order("read a layer", None, &Order::Add(layer)).await
    }

    /// The same with a layer in a file of its own, which is removed once it has been read.
    pub async fn take(&mut self, layer: Layer) -> Result<()> {
        let file = self.inputs.folder.join(&layer.content.file);
        self.order("read a layer", Some(file), &Order::Add(layer)).await
    }

    /// Whether an order has no report yet.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Waits for the next report. One that is dropped while it waits has lost nothing.
    pub async fn reported(&mut self) -> Result<Report> {
        let Some(Pending { what, .. }) = self.pending.front() else { return Ok(Report::Done) };
        let what = *what;
        let (limit, room) = (self.limit(), LINE_MAX.saturating_sub(self.line.len() as u64));
        let mut reports = (&mut self.reports).take(room);
        let read = timeout(limit, reports.read_until(b'\n', &mut self.line)).await;
        let Ok(read) = read else { return Err(self.late(what)) };
        if read.is_err() || self.line.last() != Some(&b'\n') {
            return Err(self.ended(what).await);
        }
        let report = serde_json::from_slice(&std::mem::take(&mut self.line));
        if let Some(Pending { file: Some(file), .. }) = self.pending.pop_front() {
            fs::remove_file(&file).map_err(Error::io("remove", file))?;
        }
        match report {
            Ok(Report::Failed(fault)) => Err(self.told(fault)),
            Ok(report) => Ok(report),
            Err(_) => Err(self.confused()),
        }
    }

    /// Writes the merged file system.
    pub async fn write(mut self) -> Result<Made> {
        match self.ask("write the file system", &Order::Write(OUT.into())).await? {
            Report::Done => self.made().await,
            _ => Err(self.confused()),
        }
    }

    /// Writes an archive of an image with a layer more.
    pub async fn save(mut self, save: Save) -> Result<Made> {
        match self.ask("write the archive", &Order::Save { save, out: OUT.into() }).await? {
            Report::Done => self.made().await,
            _ => Err(self.confused()),
        }
    }

    /// Gives an order and waits until it and all before it are carried out.
    async fn ask(&mut self, what: &'static str, order: &Order) -> Result<Report> {
        self.order(what, None, order).await?;
        let mut last = Report::Done;
        while self.is_busy() {
            last = self.reported().await?;
        }
        Ok(last)
    }

    async fn order(&mut self, what: &'static str, file: Option<PathBuf>, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order).map_err(|e| self.failed(e.to_string()))?;
        line.push(b'\n');
        self.pending.push_back(Pending { what, file });
        match timeout(self.limit(), self.orders.write_all(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.ended(what).await),
            Err(_) => Err(self.late(what)),
        }
    }

    /// How long one order may take by the clock.
    fn limit(&self) -> Duration {
        Duration::from_secs(self.options.seconds.saturating_mul(CLOCK_FACTOR))
    }

    fn late(&self, what: &str) -> Error {
        self.failed(format!("it took more than {} s to {what}", self.limit().as_secs()))
    }

    /// What it has written, once all its processes have ended: nobody writes there any more.
    async fn made(self) -> Result<Made> {
        let Self { image, mut process, orders, .. } = self;
        drop(orders);
        if process.end().await.is_none() {
            // It may write until it is killed.
            return Err(Error::Work { image, reason: "its worker does not end".into() });
        }
        let Some((_, folder)) = process.running.take() else { return Err(Error::Lost(image)) };
        Made::take(&folder.path().join(OUT), folder)
            .map_err(|e| Error::Store { image, reason: format!("what was made of it: {e}").into() })
    }

    /// Why it ended before it had done all.
    async fn ended(&mut self, what: &'static str) -> Error {
        let status = self.process.end().await;
        let said = match timeout(END_TIMEOUT, &mut self.said).await {
            Ok(Ok(said)) => said,
            _ => String::new(),
        };
        let how = match status {
            Some(status) => self.cause(status, &said),
            _ => "its worker does not answer".into(),
        };
        self.failed(format!("cannot {what}: {how}"))
    }

    fn cause(&self, status: ExitStatus, said: &str) -> String {
        use std::os::unix::process::ExitStatusExt;
        const KILLED: [i32; 2] = [9, 24];
        if said.contains(OUT_OF_MEMORY) {
            return format!("it takes more than {} MiB of memory", self.options.memory >> 20);
        }
        match status.signal() {
            Some(signal) if KILLED.contains(&signal) => {
                format!(
                    "its worker was killed, for want of memory or after {} s of processor time",
                    self.options.seconds
                )
            }
            _ => format!("its worker ended ({status}) {}", said.lines().last().unwrap_or_default()),
        }
    }

    fn confused(&self) -> Error {
        self.failed("malformed report from the worker".into())
    }

    fn failed(&self, reason: String) -> Error {
        Error::Work { image: self.image.clone(), reason: reason.into() }
    }

    fn told(&self, fault: Fault) -> Error {
        let image = self.image.clone();
        match fault {
            Fault::Layer { layer, reason } => Error::Layer { image, layer, reason: reason.into() },
            Fault::Platform => Error::Platform(image),
            Fault::Store(reason) => Error::Store { image, reason: reason.into() },
            Fault::Digest { what, expected, found } => {
                Error::Digest { image, what: what.into(), expected, found }
            }
            Fault::Invalid(reason) => Error::Invalid { image, reason: reason.into() },
        }
    }
}

/// What a worker has made: a file that is nobody's but root's by now, in a folder that goes with it.
pub struct Made {
    /// The file.
    pub file: File,
    /// Where it is, until it is moved.
    pub path: PathBuf,
    _folder: TempDir,
}

impl Made {
    fn take(path: &Path, folder: TempDir) -> io::Result<Self> {
        let file = File::options().read(true).custom_flags(NOT_THROUGH_A_LINK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() != 1 {
            return Err(io::Error::other("not a regular file with one link"));
        }
        give(&file, 0)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(Self { file, path: path.to_owned(), _folder: folder })
    }
}

/// The whole of a file.
pub fn whole(file: &File, name: String) -> Result<Piece> {
    let length = file.metadata().map_err(Error::io("measure", &name))?.len();
    Ok(Piece { file: name, start: 0, length })
}

fn give(file: &File, user: u32) -> io::Result<()> {
    fchown(file, Some(user), Some(user))
}

async fn diagnostics(stderr: ChildStderr) -> String {
    let mut said = Vec::new();
    let mut stderr = stderr.take(SAID_MAX);
    // What is said beyond is lost, and the pipe is closed.
    let _ = stderr.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn its_folder_goes_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = PathBuf::from(format!("/proc/{}", child.id().unwrap()));
        drop(Process { running: Some((child, folder)) });
        let gone = async {
            while path.exists() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(END_TIMEOUT, gone).await.unwrap();
        assert!(!process.exists(), "it has ended before");
    }
}
