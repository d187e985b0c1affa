use crate::container::ContainerUuid;
use crate::database::{Database, Result, now};

/// How an action went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// It failed, and this is why.
    Error(String),
}

/// The record of what was asked of a container (`container_actions`) and of what was done for it
/// (`container_actions_events`). The API starts an action; the compute service adds events and finishes it.
#[derive(Debug, Clone, Copy)]
pub struct ActionLog<'a> {
    database: &'a Database,
    container: ContainerUuid,
    request_id: &'a str,
}

impl<'a> ActionLog<'a> {
    /// The record of one request.
    pub fn new(database: &'a Database, container: ContainerUuid, request_id: &'a str) -> Self {
        Self { database, container, request_id }
    }

    /// Starts an event. Without its action, which a deleted container takes along, there is nothing to record.
    pub async fn start_event(&self, event: &str) -> Result<()> {
        let now = now();
        sqlx::query(
            "INSERT INTO container_actions_events (created_at, event, action_id, start_time) \
             SELECT ?, ?, id, ? FROM container_actions WHERE container_uuid = ? AND request_id = ? LIMIT 1",
        )
        .bind(now)
        .bind(event)
        .bind(now)
        .bind(self.container.to_string())
        .bind(self.request_id)
        .execute(self.database)
        .await?;
        Ok(())
    }

    /// Finishes an event.
    pub async fn finish_event(&self, event: &str, outcome: &Outcome) -> Result<()> {
        let (result, traceback) = match outcome {
            Outcome::Success => ("Success", None),
            Outcome::Error(reason) => ("Error", Some(reason.as_str())),
        };
        sqlx::query(
            "UPDATE container_actions_events e JOIN container_actions a ON a.id = e.action_id \
             SET e.updated_at = ?, e.finish_time = ?, e.result = ?, e.traceback = ? \
             WHERE a.container_uuid = ? AND a.request_id = ? AND e.event = ?",
        )
        .bind(now())
        .bind(now())
        .bind(result)
        .bind(traceback)
        .bind(self.container.to_string())
        .bind(self.request_id)
        .bind(event)
        .execute(self.database)
        .await?;
        Ok(())
    }

    /// Finishes the action.
    pub async fn finish(&self, action: &str, outcome: &Outcome) -> Result<()> {
        let message = matches!(outcome, Outcome::Error(_)).then_some("Error");
        sqlx::query(
            "UPDATE container_actions SET updated_at = ?, finish_time = ?, message = COALESCE(?, message) \
             WHERE container_uuid = ? AND request_id = ? AND action = ?",
        )
        .bind(now())
        .bind(now())
        .bind(message)
        .bind(self.container.to_string())
        .bind(self.request_id)
        .bind(action)
        .execute(self.database)
        .await?;
        Ok(())
    }
}
