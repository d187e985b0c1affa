//! A writer that takes no more than it was told to expect: a registry may send more than its manifest says.

use std::io::{Error, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Passes on at most so many bytes; one more is an error.
pub struct Bounded<W> {
    inner: W,
    left: u64,
}

impl<W> Bounded<W> {
    /// Expects up to `bytes`.
    pub fn new(inner: W, bytes: u64) -> Self {
        Self { inner, left: bytes }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Bounded<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize>> {
        let Some(left) = self.left.checked_sub(data.len() as u64) else {
            return Poll::Ready(Err(Error::other("more data came than was announced")));
        };
        let written = Pin::new(&mut self.inner).poll_write(context, data);
        if let Poll::Ready(Ok(count)) = written {
            self.left = left + (data.len() - count) as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_was_announced_passes_and_no_more() {
        let mut out = Vec::new();
        let mut writer = Bounded::new(&mut out, 5);
        writer.write_all(b"abc").await.unwrap();
        writer.write_all(b"de").await.unwrap();
        assert!(writer.write_all(b"f").await.is_err());
        assert_eq!(out, b"abcde");
    }
}
