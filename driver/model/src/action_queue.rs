use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::action::Record;
use crate::database::Database;

/// Records that may wait for the database.
const CAPACITY: usize = 16_384;
/// Before a record is tried again that the database did not take; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Writes the history of actions in the order in which it is told, beside the work that it is about.
#[derive(Debug, Clone)]
pub struct ActionQueue {
    sender: mpsc::Sender<Record>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl ActionQueue {
    /// A queue whose writer runs until [`Self::close`].
    pub fn start(database: Database) -> Self {
        let (sender, mut records) = mpsc::channel::<Record>(CAPACITY);
        let writer = tokio::spawn(async move {
            while let Some(record) = records.recv().await {
                write(&record, &database).await;
            }
        });
        Self { sender, writer: Arc::new(Mutex::new(Some(writer))) }
    }

    /// Takes a record, and does not wait. What nobody asked for has no action; what a database that is away for too long leaves
    /// no room for is logged in its place.
    pub fn record(&self, record: Record) {
        if record.request_id.is_empty() {
            return;
        }
        if let Err(e) = self.sender.try_send(record) {
            let record = match e {
                mpsc::error::TrySendError::Full(record) | mpsc::error::TrySendError::Closed(record) => record,
            };
            tracing::error!(container = %record.container, request_id = record.request_id, what = ?record.what,
                "an action's record is lost: too many wait for the database");
        }
    }

    /// Waits until all has been written that was taken before, or the deadline has passed.
    pub async fn close(self, deadline: Duration) {
        let Self { sender, writer } = self;
        drop(sender);
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && tokio::time::timeout(deadline, writer).await.is_err()
        {
            tracing::error!(
                "records of actions are lost: the database did not take them within {deadline:?}"
            );
        }
    }
}

async fn write(record: &Record, database: &Database) {
    let mut pause = FIRST_PAUSE;
    while let Err(e) = record.write(database).await {
        tracing::warn!(container = %record.container, error = %e, "an action is not recorded yet");
        if !e.is_transient() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
