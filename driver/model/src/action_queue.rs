use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::action::Record;
use crate::database::Database;

/// Records that may wait for the database.
const CAPACITY: usize = 16_384;
/// Before a record is tried again that the database did not take; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Writes the history of actions in the order in which it is told, beside the work that it is about.
#[derive(Debug, Clone)]
pub struct ActionQueue(mpsc::Sender<Entry>);

#[derive(Debug)]
enum Entry {
    Record(Record),
    /// All that was taken before has been written.
    Mark(oneshot::Sender<()>),
}

impl ActionQueue {
    /// A queue whose writer runs as long as somebody has the queue.
    pub fn start(database: Database) -> Self {
        let (sender, mut entries) = mpsc::channel(CAPACITY);
        tokio::spawn(async move {
            while let Some(entry) = entries.recv().await {
                match entry {
                    Entry::Record(record) => write(&record, &database).await,
                    // Whoever waited may have given up.
                    Entry::Mark(written) => drop(written.send(())),
                }
            }
        });
        Self(sender)
    }

    /// Takes a record, and does not wait. What nobody asked for has no action; what a database that is away for too long leaves
    /// no room for is logged in its place.
    pub fn record(&self, record: Record) {
        if record.request_id.is_empty() {
            return;
        }
        if let Err(e) = self.0.try_send(Entry::Record(record))
            && let Entry::Record(record) = e.into_inner()
        {
            tracing::error!(container = %record.container, request_id = record.request_id, what = ?record.what,
                "an action's record is lost: too many wait for the database");
        }
    }

    /// Waits until all has been written that was taken before, or the deadline has passed.
    pub async fn flush(&self, deadline: Duration) {
        let (mark, written) = oneshot::channel();
        let flushed = async {
            // The writer is there as long as this queue.
            let _ = self.0.send(Entry::Mark(mark)).await;
            let _ = written.await;
        };
        if tokio::time::timeout(deadline, flushed).await.is_err() {
            tracing::error!(
                "records of actions are lost: the database did not take them within {deadline:?}"
            );
        }
    }
}

async fn write(record: &Record, database: &Database) {
    let mut pause = FIRST_PAUSE;
    while let Err(e) = record.write(database).await {
        let (container, error) = (record.container, e.to_string());
        if !e.is_transient() {
            return tracing::error!(%container, error, "an action's record is lost: the database refuses it");
        }
        tracing::warn!(%container, error, "an action is not recorded yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
