//! The only writer of a container's status, its reason, its detail and its task state. Each operation is framed by it: an event
//! and a task state before, one write of all that follows from it after.

use std::time::Duration;

use model::{Changes, Container, ContainerUuid, Outcome, Record, Recorded};
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::operation::{OnFailure, Operation};
use crate::rows::Rows;

/// The request where nobody has asked: it has no action.
pub const NOBODY: &str = "";
/// Before a final write is tried again that the database did not take; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Characters of a reason that every database takes.
const SHORT_REASON: usize = 200;

/// An operation that is under way.
#[derive(Debug)]
#[must_use = "its task state stays until it is settled"]
pub struct Begun {
    request: String,
    operation: &'static Operation,
}

/// Writes rows and the history of actions.
#[derive(Debug, Clone)]
pub struct Executor<R> {
    rows: R,
}

impl<R: Rows> Executor<R> {
    /// An executor on these rows.
    pub fn new(rows: R) -> Self {
        Self { rows }
    }

    /// The rows.
    pub fn rows(&self) -> &R {
        &self.rows
    }

    /// What an operation is before it is begun: an event of the request, and what its row is to say meanwhile.
    pub fn announce(
        &self,
        request: &str,
        uuid: ContainerUuid,
        operation: &'static Operation,
    ) -> (Begun, Changes) {
        let begun = Begun { request: request.to_owned(), operation };
        self.record(request, uuid, Recorded::EventStarted(operation.event.into()));
        (begun, Changes::task(Some(operation.task)))
    }

    /// Begins an operation on a container whose turn the caller has.
    pub async fn begin(
        &self,
        request: &str,
        row: &mut Container,
        operation: &'static Operation,
        more: Changes,
    ) -> Result<Begun> {
        let (begun, changes) = self.announce(request, row.uuid, operation);
        match self.rows.save(row, more.after(changes)).await {
            Ok(()) => Ok(begun),
            Err(e) => {
                if is_transient(&e) {
                    // The database may have taken it all the same.
                    let before = Changes { status: Some(row.status), ..Changes::task(row.task()) };
                    self.write(row, before).await;
                }
                let failed = Err(e);
                self.tell(&begun, row.uuid, &failed);
                failed.map(|()| begun)
            }
        }
    }

    /// Ends an operation: its row is written until the database takes it.
    pub async fn settle(&self, begun: Begun, row: &mut Container, result: Result<Changes>) -> Result<()> {
        let (changes, result) = match result {
            Ok(changes) => (changes, Ok(())),
            Err(e) => (after_failure(begun.operation, &e), Err(e)),
        };
        self.settle_with(begun, row, changes, result).await
    }

    /// As [`Self::settle`], where what the row says is not what the result would make of it.
    pub async fn settle_with(
        &self,
        begun: Begun,
        row: &mut Container,
        changes: Changes,
        result: Result<()>,
    ) -> Result<()> {
        if let Err(e) = &result {
            tracing::error!(event = begun.operation.event, error = %e, "an operation failed");
        }
        self.write(row, Changes::task(None).after(changes)).await;
        self.tell(&begun, row.uuid, &result);
        result
    }

    /// Ends an operation that went well and begins the one that follows it, with one write. If the database will never take
    /// that, the row is in error, and the operation that follows has failed.
    pub async fn proceed(
        &self,
        begun: Begun,
        row: &mut Container,
        changes: Changes,
        next: &'static Operation,
    ) -> Result<Begun> {
        self.tell(&begun, row.uuid, &Ok(()));
        let (begun, task) = self.announce(&begun.request, row.uuid, next);
        let written = self.write_or_fail(row, changes.after(task)).await;
        if written.is_err() {
            self.tell(&begun, row.uuid, &written);
        }
        written.map(|()| begun)
    }

    /// Writes a row until the database takes it. What it will never take is cut short.
    pub async fn write(&self, row: &mut Container, changes: Changes) {
        if let Err(e) = self.write_or_fail(row, changes).await {
            tracing::error!(container = %row.uuid, error = %e, "a container's state is not written");
        }
    }

    /// Writes a row until the database takes it. If it never will, the row says so, in few words.
    async fn write_or_fail(&self, row: &mut Container, changes: Changes) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            let refused = match self.rows.save(row, changes.clone()).await {
                Err(e) if is_transient(&e) => e,
                Err(e) if !is_gone(&e) => {
                    let reason: String = e.to_string().chars().take(SHORT_REASON).collect();
                    let short = Changes::task(None).after(Changes::error(reason));
                    if let Err(e) = self.rows.save(row, short).await {
                        tracing::error!(container = %row.uuid, error = %e, "nor that it is in error");
                    }
                    return Err(e);
                }
                written => return written,
            };
            tracing::warn!(container = %row.uuid, error = %refused, "a container's state is not written yet");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tells how far the work on a container has come. That it is not written is no reason to stop the work.
    pub async fn tell_progress(&self, row: &mut Container, detail: String) {
        let changes = Changes { status_detail: Some(Some(detail)), ..Changes::default() };
        if let Err(e) = self.rows.save(row, changes).await {
            tracing::warn!(container = %row.uuid, error = %e, "progress is not recorded");
        }
    }

    /// Ends the action of a request for which no operation was begun.
    pub fn refuse(&self, request: &str, uuid: ContainerUuid, action: &str, error: &Error) {
        tracing::warn!(container = %uuid, action, error = %error, "a request is refused");
        self.record(request, uuid, Recorded::Finished(action.into(), Outcome::Error(error.to_string())));
    }

    /// Ends the action of a request.
    pub fn finish<T>(&self, request: &str, uuid: ContainerUuid, action: &str, result: &Result<T>) {
        self.record(request, uuid, Recorded::Finished(action.into(), outcome(result)));
    }

    /// Records the beginning of an event that has no task state.
    pub fn event_started(&self, request: &str, uuid: ContainerUuid, event: &str) {
        self.record(request, uuid, Recorded::EventStarted(event.into()));
    }

    /// Records its end.
    pub fn event_finished<T>(&self, request: &str, uuid: ContainerUuid, event: &str, result: &Result<T>) {
        self.record(request, uuid, Recorded::EventFinished(event.into(), outcome(result)));
    }

    fn tell(&self, begun: &Begun, uuid: ContainerUuid, result: &Result<()>) {
        self.event_finished(&begun.request, uuid, begun.operation.event, result);
        if let Some(action) = begun.operation.action {
            self.finish(&begun.request, uuid, action, result);
        }
    }

    fn record(&self, request: &str, uuid: ContainerUuid, what: Recorded) {
        self.rows.record(Record { container: uuid, request_id: request.to_owned(), what });
    }
}

fn after_failure(operation: &Operation, error: &Error) -> Changes {
    match operation.on_failure {
        OnFailure::Keep => Changes::default(),
        OnFailure::Fail => Changes::error(error.to_string()),
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Database(model::Error::NoContainer(_)))
}

fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Database(e) if e.is_transient())
}

fn outcome<T>(result: &Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(e) => Outcome::Error(e.to_string()),
    }
}

/// A container that was never made cannot be worked on.
pub fn require_created(container: &Container) -> Result<()> {
    if container.container_id.is_some() { Ok(()) } else { Err(Error::NotCreated) }
}
