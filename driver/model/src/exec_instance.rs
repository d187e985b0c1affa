use crate::database::{Database, Result, now, once};

/// A process that a user may start in a container (`exec_instance`).
#[derive(Debug, Clone)]
pub struct ExecInstance {
    /// The row of its container.
    pub container_id: i32,
    /// Its identifier.
    pub exec_id: String,
    /// What its user shows to the proxy.
    pub token: String,
    /// Where the proxy finds it.
    pub url: String,
}

impl ExecInstance {
    /// Writes the row, which goes with its container.
    pub async fn create(&self, database: &Database) -> Result<()> {
        once(|| async {
            sqlx::query(
                "INSERT INTO exec_instance (created_at, container_id, exec_id, token, url) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(now())
            .bind(self.container_id)
            .bind(&self.exec_id)
            .bind(&self.token)
            .bind(&self.url)
            .execute(database)
            .await?;
            Ok(())
        })
        .await
    }
}
