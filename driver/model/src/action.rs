use sqlx::{MySql, QueryBuilder};
use time::PrimitiveDateTime;

use crate::container::{UUIDS_AT_ONCE, push_uuids};
use crate::database::{Database, Result, idempotent, now};
use crate::uuid::ContainerUuid;

/// How an action went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// It failed, and this is why.
    Error(String),
}

/// What is recorded of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// An event of the request's action has begun.
    EventStarted(String),
    /// An event has ended.
    EventFinished(String, Outcome),
    /// The action has ended.
    Finished(String, Outcome),
}

/// A line of the history of what was asked of a container (`container_actions`) and what was done for it
/// (`container_actions_events`). The API starts an action; the compute service adds events and finishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The container.
    pub container: ContainerUuid,
    /// The request; empty where nobody asked, which is not recorded.
    pub request_id: String,
    /// What happened.
    pub what: Recorded,
}

/// An action that was being worked on and has not come to its end. A commit is not among them: whoever takes it back ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The container.
    pub container: ContainerUuid,
    /// The request.
    pub request_id: String,
    /// The action.
    pub action: String,
    /// Its event, which has begun and not ended.
    pub event: String,
    /// When that has begun.
    pub started: Option<PrimitiveDateTime>,
}

impl Unfinished {
    /// Those of these containers; those of each in the order in which they were asked for.
    pub async fn list(database: &Database, containers: &[ContainerUuid]) -> Result<Vec<Self>> {
        type Row = (String, String, String, String, Option<PrimitiveDateTime>);
        let mut all = Vec::new();
        for some in containers.chunks(UUIDS_AT_ONCE) {
            let rows: Vec<Row> = idempotent(|| async {
                let mut query: QueryBuilder<MySql> = QueryBuilder::new(
                    "SELECT a.container_uuid, a.request_id, a.action, e.event, e.start_time FROM container_actions a \
                     JOIN container_actions_events e ON e.action_id = a.id \
                     WHERE a.finish_time IS NULL AND e.finish_time IS NULL AND a.action <> 'commit' \
                     AND a.request_id IS NOT NULL AND e.event IS NOT NULL AND a.container_uuid IN (",
                );
                push_uuids(&mut query, some);
                query.push(") ORDER BY a.id, e.id");
                Ok(query.build_query_as().fetch_all(database).await?)
            })
            .await?;
            let unfinished = |(container, request_id, action, event, started): Row| {
                Some(Self { container: container.parse().ok()?, request_id, action, event, started })
            };
            all.extend(rows.into_iter().filter_map(unfinished));
        }
        Ok(all)
    }
}

impl Record {
    /// Writes it. Without its action, which a deleted container takes along, there is nothing to write.
    pub async fn write(&self, database: &Database) -> Result<()> {
        idempotent(|| async {
            match &self.what {
                Recorded::EventStarted(event) => self.start_event(database, event).await,
                Recorded::EventFinished(event, outcome) => self.finish_event(database, event, outcome).await,
                Recorded::Finished(action, outcome) => self.finish(database, action, outcome).await,
            }
        })
        .await
    }

    async fn start_event(&self, database: &Database, event: &str) -> Result<()> {
        let now = now();
        sqlx::query(
            "INSERT INTO container_actions_events (created_at, event, action_id, start_time) \
             SELECT ?, ?, id, ? FROM container_actions WHERE container_uuid = ? AND request_id = ? LIMIT 1",
        )
        .bind(now)
        .bind(event)
        .bind(now)
        .bind(self.container.to_string())
        .bind(&self.request_id)
        .execute(database)
        .await?;
        Ok(())
    }

    async fn finish_event(&self, database: &Database, event: &str, outcome: &Outcome) -> Result<()> {
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
        .bind(&self.request_id)
        .bind(event)
        .execute(database)
        .await?;
        Ok(())
    }

    async fn finish(&self, database: &Database, action: &str, outcome: &Outcome) -> Result<()> {
        let message = matches!(outcome, Outcome::Error(_)).then_some("Error");
        sqlx::query(
            "UPDATE container_actions SET updated_at = ?, finish_time = ?, message = COALESCE(?, message) \
             WHERE container_uuid = ? AND request_id = ? AND action = ?",
        )
        .bind(now())
        .bind(now())
        .bind(message)
        .bind(self.container.to_string())
        .bind(&self.request_id)
        .bind(action)
        .execute(database)
        .await?;
        Ok(())
    }
}
