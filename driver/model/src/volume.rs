use ::uuid::Uuid;
use serde::Deserialize;
use serde_json::Value;

use crate::database::{Database, Result, idempotent, now};
use crate::uuid::ContainerUuid;
use crate::versioned;

/// A place in a container that a message asks for a volume. What the volume is stands in its row, which the API has
/// written; of a capsule's volumes a message tells no more than this.
#[derive(Debug, Deserialize)]
pub struct RequestedVolume {
    /// The volume's row.
    pub volume_id: i32,
    container_path: Option<String>,
    project_id: Option<String>,
    user_id: Option<String>,
}

/// A volume and its place in a container (`zun/objects/volume_mapping.py`; tables `volume_mapping` and `volume`). What it
/// holds, and where it is, may be secret: it is not for logs.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct VolumeMapping {
    /// The volume's row.
    pub volume_id: i32,
    /// Who has what is in it.
    pub volume_provider: String,
    /// Cinder's identifier of it, where its provider is Cinder.
    pub cinder_volume_id: Option<String>,
    /// Whether it was made for its container and goes with it.
    pub auto_remove: Option<bool>,
    /// Where its host finds it, once it is attached: JSON as Cinder's drivers write it.
    pub connection_info: Option<String>,
    /// Where the container sees it.
    pub container_path: Option<String>,
    /// What is in it, in base64, where its provider is Zun itself.
    pub contents: Option<String>,
}

impl RequestedVolume {
    const NAME: &'static str = "VolumeMapping";

    /// Reads a mapping from a message.
    pub fn from_wire(value: &Value) -> std::result::Result<Self, versioned::DecodeError> {
        versioned::decode(Self::NAME, "1", value)
    }

    /// Writes the row that gives the volume to a container.
    pub async fn create(&self, database: &Database, container: ContainerUuid) -> Result<()> {
        let uuid = Uuid::new_v4();
        // Its UUID is unique: a row whose answer was lost is not written twice.
        idempotent(|| async {
            sqlx::query(
                "INSERT INTO volume_mapping (created_at, uuid, project_id, user_id, volume_id, container_path, \
                 container_uuid) VALUES (?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE uuid = uuid",
            )
            .bind(now())
            .bind(uuid.to_string())
            .bind(&self.project_id)
            .bind(&self.user_id)
            .bind(self.volume_id)
            .bind(&self.container_path)
            .bind(container.to_string())
            .execute(database)
            .await?;
            Ok(())
        })
        .await
    }
}

impl VolumeMapping {
    /// The volumes of a container, in the order in which they were asked for.
    pub async fn list_by_container(database: &Database, container: ContainerUuid) -> Result<Vec<Self>> {
        idempotent(|| async {
            let rows = sqlx::query_as(
                "SELECT m.volume_id, v.volume_provider, v.cinder_volume_id, v.auto_remove, v.connection_info, \
                 m.container_path, v.contents \
                 FROM volume_mapping m JOIN volume v ON v.id = m.volume_id WHERE m.container_uuid = ? ORDER BY m.id",
            );
            Ok(rows.bind(container.to_string()).fetch_all(database).await?)
        })
        .await
    }

    /// Those of these volumes that no container has been given: they are made, and in no mapping.
    pub async fn unmapped(database: &Database, volumes: &[i32]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for volume in volumes {
            let found: Option<Self> = idempotent(|| async {
                let row = sqlx::query_as(
                    "SELECT v.id AS volume_id, v.volume_provider, v.cinder_volume_id, v.auto_remove, v.connection_info, \
                     NULL AS container_path, v.contents FROM volume v WHERE v.id = ? \
                     AND NOT EXISTS (SELECT 1 FROM volume_mapping m WHERE m.volume_id = v.id)",
                );
                Ok(row.bind(volume).fetch_optional(database).await?)
            })
            .await?;
            all.extend(found);
        }
        Ok(all)
    }

    /// Removes the rows of those of these volumes that no container has been given.
    pub async fn destroy_unmapped(database: &Database, volumes: &[i32]) -> Result<()> {
        for volume in volumes {
            idempotent(|| async {
                sqlx::query(
                    "DELETE FROM volume WHERE id = ? AND NOT EXISTS \
                     (SELECT 1 FROM volume_mapping WHERE volume_mapping.volume_id = volume.id)",
                )
                .bind(volume)
                .execute(database)
                .await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Writes on which host the volume is, and how that finds it.
    pub async fn save_connection(&self, database: &Database, host: &str, info: &Value) -> Result<()> {
        idempotent(|| async {
            sqlx::query("UPDATE volume SET connection_info = ?, host = ?, updated_at = ? WHERE id = ?")
                .bind(info.to_string())
                .bind(host)
                .bind(now())
                .bind(self.volume_id)
                .execute(database)
                .await?;
            Ok(())
        })
        .await
    }

    /// Removes the rows of a container's volumes. A volume's own row stays while another container has it.
    pub async fn destroy_by_container(database: &Database, container: ContainerUuid) -> Result<()> {
        idempotent(|| Self::destroy_all_of(database, container)).await
    }

    async fn destroy_all_of(database: &Database, container: ContainerUuid) -> Result<()> {
        let mut transaction = database.begin().await?;
        let volumes: Vec<(i32,)> =
            sqlx::query_as("SELECT volume_id FROM volume_mapping WHERE container_uuid = ?")
                .bind(container.to_string())
                .fetch_all(&mut *transaction)
                .await?;
        sqlx::query("DELETE FROM volume_mapping WHERE container_uuid = ?")
            .bind(container.to_string())
            .execute(&mut *transaction)
            .await?;
        for (volume,) in volumes {
            sqlx::query(
                "DELETE FROM volume WHERE id = ? AND NOT EXISTS \
                 (SELECT 1 FROM volume_mapping WHERE volume_mapping.volume_id = volume.id)",
            )
            .bind(volume)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_message_asks_for_is_read() {
        let data = json!({ "cinder_volume_id": null, "auto_remove": false, "contents": "aGVsbG8=", "user_id": "u",
            "project_id": "p", "volume_provider": "local", "volume_id": 7, "container_path": "/etc/app.conf" });
        let of_capsule =
            json!({ "container_path": "/etc/app.conf", "user_id": "u", "project_id": "p", "volume_id": 7 });
        for data in [data, of_capsule] {
            let volume =
                RequestedVolume::from_wire(&versioned::versioned("VolumeMapping", "1.5", data)).unwrap();
            assert_eq!((volume.volume_id, volume.container_path.as_deref()), (7, Some("/etc/app.conf")));
            assert_eq!((volume.project_id.as_deref(), volume.user_id.as_deref()), (Some("p"), Some("u")));
        }
        assert!(RequestedVolume::from_wire(&versioned::versioned("Volume", "1.0", json!({}))).is_err());
    }
}
