use std::time::Duration;

use crate::database::{Database, Result, idempotent, now};

/// A service's row in `zun_service`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Service {
    /// Whether an administrator took it out of scheduling.
    pub disabled: Option<bool>,
    /// Whether an administrator declared it down.
    pub forced_down: Option<bool>,
}

/// Reads a service's row.
pub async fn service(database: &Database, host: &str, binary: &str) -> Result<Option<Service>> {
    idempotent(|| async {
        let row =
            sqlx::query_as("SELECT disabled, forced_down FROM zun_service WHERE host = ? AND `binary` = ?");
        Ok(row.bind(host).bind(binary).fetch_optional(database).await?)
    })
    .await
}

/// Whether a service of this name has said within `age` that it is alive.
pub async fn is_up(database: &Database, host: &str, binary: &str, age: Duration) -> Result<bool> {
    let oldest = now() - age;
    idempotent(|| async {
        let found: Option<i32> = sqlx::query_scalar(
            "SELECT 1 FROM zun_service WHERE host = ? AND `binary` = ? AND last_seen_up > ? LIMIT 1",
        )
        .bind(host)
        .bind(binary)
        .bind(oldest)
        .fetch_optional(database)
        .await?;
        Ok(found.is_some())
    })
    .await
}

/// Says that a service is alive; its row is made if there is none.
pub async fn heartbeat(database: &Database, host: &str, binary: &str, availability_zone: &str) -> Result<()> {
    idempotent(|| async {
        let now = now();
        sqlx::query(
            "INSERT INTO zun_service (created_at, host, `binary`, disabled, forced_down, report_count, last_seen_up, \
             availability_zone) VALUES (?, ?, ?, FALSE, FALSE, 1, ?, ?) \
             ON DUPLICATE KEY UPDATE updated_at = ?, last_seen_up = ?, report_count = report_count + 1, \
             availability_zone = ?",
        )
        .bind(now)
        .bind(host)
        .bind(binary)
        .bind(now)
        .bind(availability_zone)
        .bind(now)
        .bind(now)
        .bind(availability_zone)
        .execute(database)
        .await?;
        Ok(())
    })
    .await
}
