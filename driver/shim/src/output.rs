//! A container's output, which goes to its log and to attached clients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shim_control::LogStream;
use tokio::sync::mpsc;

use crate::log::{Lines, Log};

/// Pieces of output that are queued for an attached client.
const WAITING_MAX: usize = 16;
/// Time that the container waits for an attached client that does not read, before the client is cut off.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The output for an attached client.
pub type Pieces = mpsc::Receiver<Arc<[u8]>>;

/// A container's output.
pub struct Output {
    log: Mutex<Log>,
    attached: Mutex<Vec<mpsc::Sender<Arc<[u8]>>>>,
}

impl Output {
    /// Output that is kept in `log`.
    pub fn new(log: Log) -> Self {
        Self { log: Mutex::new(log), attached: Mutex::default() }
    }

    /// The output from now on, until it ends.
    pub fn attach(&self) -> Pieces {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut attached = lock(&self.attached);
        attached.retain(|other| !other.is_closed());
        attached.push(sender);
        receiver
    }

    /// The receiver of one of the container's streams.
    pub fn source(&self, stream: LogStream) -> Source<'_> {
        Source { output: self, stream, lines: Lines::default() }
    }

    fn append(&self, stream: LogStream, text: &[u8]) {
        if let Err(e) = lock(&self.log).append(stream, text) {
            tracing::error!(error = %e, "output of the container is lost");
        }
    }

    async fn show(&self, data: Arc<[u8]>) {
        let attached = lock(&self.attached).clone();
        for one in attached {
            if let Err(mpsc::error::SendTimeoutError::Timeout(_)) =
                one.send_timeout(Arc::clone(&data), READ_TIMEOUT).await
            {
                tracing::warn!("one that is attached does not read, and is cut off");
                lock(&self.attached).retain(|other| !other.same_channel(&one));
            }
        }
    }
}

/// One of a container's streams.
pub struct Source<'a> {
    output: &'a Output,
    stream: LogStream,
    lines: Lines,
}

impl Source<'_> {
    /// Takes data of the stream.
    pub async fn push(&mut self, data: Vec<u8>) {
        for piece in self.lines.push(&data) {
            self.output.append(self.stream, &piece);
        }
        self.output.show(data.into()).await;
    }

    /// The stream has ended.
    pub fn finish(self) {
        if let Some(rest) = self.lines.finish() {
            self.output.append(self.stream, &rest);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use shim_control::LogLimits;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_that_are_attached_see_it_and_one_that_sleeps_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let output =
            Output::new(Log::open(path.clone(), LogLimits { file_bytes: 1 << 20, files: 1 }).unwrap());
        let (mut reads, mut sleeps) = (output.attach(), output.attach());
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(piece) = reads.recv().await {
                all.extend_from_slice(&piece);
            }
            all
        });
        let mut source = output.source(LogStream::Stdout);
        for _ in 0..WAITING_MAX + 2 {
            source.push(b"\xffa\n".to_vec()).await;
        }
        source.finish();
        drop(output);
        assert_eq!(reader.await.unwrap(), b"\xffa\n".repeat(WAITING_MAX + 2), "bytes as they are");
        let mut seen = 0;
        while sleeps.recv().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, WAITING_MAX);
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), WAITING_MAX + 2);
    }
}
