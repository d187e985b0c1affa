use crate::error::{Error, Result};

/// Does what may have to wait on a thread of its own: the thread that answers the control socket must not.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Lost)?
}
