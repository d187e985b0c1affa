//! Work that nobody asks for again: it waits for the database, however long that is away.

use std::time::Duration;

use tokio::time::sleep;

use crate::error::{Error, Result};

/// Before the database is asked again that did not answer; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Does `work`, which may be done twice, until the database has answered it.
pub async fn until_answered<T, F>(work: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match work().await {
            Err(Error::Database(e)) if e.is_transient() => {
                tracing::warn!(error = %e, "the database is asked again");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answered => return answered,
        }
    }
}
