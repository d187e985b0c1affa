use serde::Deserialize;
use serde_json::Value;

use crate::database::{Database, Result, idempotent, now};
use crate::versioned;

/// An image that an administrator asked a host to keep.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Its identifier in Zun.
    pub uuid: String,
    /// Repository.
    pub repo: String,
    /// Tag.
    pub tag: Option<String>,
    /// The digest of its configuration, once it is here.
    #[serde(default)]
    pub image_id: Option<String>,
}

impl Image {
    /// Reads an image from a message.
    pub fn from_wire(value: &Value) -> std::result::Result<Self, versioned::DecodeError> {
        versioned::decode("Image", "1", value)
    }

    /// Writes what a pull found out. `size` is in bytes.
    pub async fn pulled(&self, database: &Database, tag: &str, image_id: &str, size: u64) -> Result<()> {
        idempotent(|| async {
            sqlx::query("UPDATE image SET updated_at = ?, tag = ?, image_id = ?, size = ? WHERE uuid = ?")
                .bind(now())
                .bind(tag)
                .bind(image_id)
                .bind(size.to_string())
                .bind(&self.uuid)
                .execute(database)
                .await?;
            Ok(())
        })
        .await
    }

    /// Removes the row.
    pub async fn destroy(&self, database: &Database) -> Result<()> {
        idempotent(|| async {
            sqlx::query("DELETE FROM image WHERE uuid = ?").bind(&self.uuid).execute(database).await?;
            Ok(())
        })
        .await
    }
}
