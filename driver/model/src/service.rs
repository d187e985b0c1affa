use std::time::Duration;

use crate::database::{Database, Result, idempotent};

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

/// Whether a service of this name has said within `age` that it is alive, by the database's clock.
pub async fn is_up(database: &Database, host: &str, binary: &str, age: Duration) -> Result<bool> {
    idempotent(|| async {
        let found: Option<i32> = sqlx::query_scalar(
            "SELECT 1 FROM zun_service WHERE host = ? AND `binary` = ? \
             AND last_seen_up > UTC_TIMESTAMP() - INTERVAL ? SECOND LIMIT 1",
        )
        .bind(host)
        .bind(binary)
        .bind(age.as_secs())
        .fetch_optional(database)
        .await?;
        Ok(found.is_some())
    })
    .await
}

/// Says that a service is alive; its row is made if there is none. The time is the database's: Zun takes a host for down whose clock
/// is not the control plane's, and refuses what its users ask for.
pub async fn heartbeat(database: &Database, host: &str, binary: &str, availability_zone: &str) -> Result<()> {
    idempotent(|| async {
        sqlx::query(
            "INSERT INTO zun_service (created_at, host, `binary`, disabled, forced_down, report_count, last_seen_up, \
             availability_zone) VALUES (UTC_TIMESTAMP(), ?, ?, FALSE, FALSE, 1, UTC_TIMESTAMP(), ?) \
             ON DUPLICATE KEY UPDATE updated_at = UTC_TIMESTAMP(), last_seen_up = UTC_TIMESTAMP(), \
             report_count = report_count + 1, availability_zone = ?",
        )
        .bind(host)
        .bind(binary)
        .bind(availability_zone)
        .bind(availability_zone)
        .execute(database)
        .await?;
        Ok(())
    })
    .await
}
