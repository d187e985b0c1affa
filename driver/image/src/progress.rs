use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::bounded::Bounded;

/// A transfer that has not ended brings at least [`BYTES_MIN`] in each stretch of this length.
pub(crate) const STRETCH: Duration = Duration::from_secs(120);
/// About 17 KiB a second.
pub(crate) const BYTES_MIN: u64 = 2 << 20;

/// How far pulls have come, in bytes as they are sent.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    announced: AtomicU64,
    fetched: AtomicU64,
    /// The progress of all pulls together, to which this one adds.
    whole: Option<Progress>,
}

impl Progress {
    /// The progress of a further pull, which this one includes.
    pub fn of_one(&self) -> Self {
        Self(Arc::new(Counters { whole: Some(self.clone()), ..Counters::default() }))
    }

    /// Bytes that were to be fetched.
    pub fn announced(&self) -> u64 {
        self.0.announced.load(Ordering::Relaxed)
    }

    /// Bytes of them that have come.
    pub fn fetched(&self) -> u64 {
        self.0.fetched.load(Ordering::Relaxed)
    }

    /// A writer to `inner` that counts the next `bytes`, and takes no more.
    pub fn receive<W: AsyncWrite + Unpin>(&self, inner: W, bytes: u64) -> impl AsyncWrite + Unpin {
        self.announce(bytes);
        Bounded::new(self.count(inner), bytes)
    }

    /// Runs a transfer that this counts. Gives it up, and returns `None`, when it is too slow.
    pub(crate) async fn at_pace<T>(&self, transfer: impl Future<Output = T>) -> Option<T> {
        let mut transfer = pin!(transfer);
        loop {
            let before = self.fetched();
            if let Ok(ended) = timeout(STRETCH, transfer.as_mut()).await {
                return Some(ended);
            }
            if self.fetched() - before < BYTES_MIN {
                return None;
            }
        }
    }

    /// So many bytes more are to be fetched.
    pub(crate) fn announce(&self, bytes: u64) {
        self.0.announced.fetch_add(bytes, Ordering::Relaxed);
        self.0.whole.iter().for_each(|whole| whole.announce(bytes));
    }

    fn add(&self, bytes: u64) {
        self.0.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.0.whole.iter().for_each(|whole| whole.add(bytes));
    }

    /// A writer that counts what passes on its way to `inner`.
    pub(crate) fn count<W>(&self, inner: W) -> Counted<W> {
        Counted { inner, progress: self.clone() }
    }
}

/// Counts what is written.
pub struct Counted<W> {
    inner: W,
    progress: Progress,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Counted<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, data);
        if let Poll::Ready(Ok(count)) = written {
            self.progress.add(count as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn what_passes_is_counted() {
        let all = Progress::default();
        all.announce(1);
        let progress = all.of_one();
        progress.announce(10);
        let mut out = Vec::new();
        progress.count(&mut out).write_all(b"four").await.unwrap();
        assert_eq!((progress.announced(), progress.fetched(), out), (10, 4, b"four".to_vec()));
        assert_eq!((all.announced(), all.fetched()), (11, 4));
    }

    /// Brings so many bytes each minute for half an hour.
    async fn transfer(progress: &Progress, bytes: u64) {
        for _ in 0..30 {
            sleep(Duration::from_secs(60)).await;
            progress.add(bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tarpit_is_given_up_and_a_long_transfer_is_not() {
        let progress = Progress::default();
        assert!(progress.at_pace(transfer(&progress, 2 * BYTES_MIN)).await.is_some());
        assert!(progress.at_pace(transfer(&progress, 1)).await.is_none());
    }
}
