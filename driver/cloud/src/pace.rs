//! The least speed of a transfer: it may take as long as it is large, but one that all but stands still is ended.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::http::READ_TIMEOUT;

/// A transfer that has not ended moves at least [`BYTES_MIN`] in each stretch of this length.
pub const STRETCH: Duration = READ_TIMEOUT;
/// About 23 KiB a second.
pub const BYTES_MIN: u64 = 4 << 20;

/// Runs a transfer that counts in `moved` the bytes it moves. Gives it up, and returns `None`, when it is too slow.
pub async fn at_pace<T>(moved: &AtomicU64, transfer: impl Future<Output = T>) -> Option<T> {
    let mut transfer = pin!(transfer);
    loop {
        let before = moved.load(Ordering::Relaxed);
        if let Ok(ended) = timeout(STRETCH, transfer.as_mut()).await {
            return Some(ended);
        }
        if moved.load(Ordering::Relaxed) - before < BYTES_MIN {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Moves so many bytes each minute for half an hour.
    async fn transfer(moved: &AtomicU64, bytes: u64) {
        for _ in 0..30 {
            sleep(Duration::from_secs(60)).await;
            moved.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tarpit_is_given_up_and_a_long_transfer_is_not() {
        let moved = AtomicU64::new(0);
        assert!(at_pace(&moved, transfer(&moved, BYTES_MIN)).await.is_some());
        let start = Instant::now();
        assert!(at_pace(&moved, transfer(&moved, 1)).await.is_none());
        assert!(at_pace(&moved, std::future::pending::<()>()).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 2 * STRETCH.as_secs());
    }
}
