use ::uuid::Uuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::database::{Database, Result, idempotent, now};
use crate::versioned;

/// A network that `container_create` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedNetwork {
    /// The Neutron network.
    pub network: String,
    /// A port that exists already; empty asks for a new one.
    #[serde(default)]
    pub port: String,
    /// An address that the new port must have; empty asks for any.
    #[serde(default)]
    pub fixed_ip: String,
    /// Whether the port stays when the container goes.
    #[serde(default)]
    pub preserve_on_delete: bool,
    /// Set where a PCI device is asked for.
    #[serde(default)]
    pub pci_request_id: Option<String>,
}

/// A Neutron network that a host has made known to its containers (`network`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
#[allow(missing_docs)]
pub struct ZunNetwork {
    pub id: i32,
    pub uuid: Option<String>,
    pub project_id: Option<String>,
    pub user_id: Option<String>,
    pub name: Option<String>,
    /// Docker's identifier of it, for which this service has Neutron's own.
    pub network_id: Option<String>,
    pub neutron_net_id: Option<String>,
    pub host: Option<String>,
}

impl ZunNetwork {
    const NAME: &'static str = "ZunNetwork";
    /// Zun 18.0.0's version of the object.
    const VERSION: &'static str = "1.2";

    /// Reads a network from a message.
    pub fn from_wire(value: &Value) -> std::result::Result<Self, versioned::DecodeError> {
        versioned::decode(Self::NAME, "1", value)
    }

    /// The network for a message.
    pub fn to_wire(&self) -> std::result::Result<Value, serde_json::Error> {
        versioned::encode(Self::NAME, Self::VERSION, self)
    }

    /// The row of a Neutron network on a host, made if there is none.
    pub async fn ensure(
        database: &Database,
        neutron_net_id: &str,
        host: &str,
        owner: (Option<&str>, Option<&str>),
    ) -> Result<Self> {
        let uuid = Uuid::new_v4().to_string();
        idempotent(|| async {
            sqlx::query(
                "INSERT IGNORE INTO network (created_at, uuid, name, neutron_net_id, network_id, host, project_id, user_id) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(now())
            .bind(&uuid)
            .bind(neutron_net_id)
            .bind(neutron_net_id)
            .bind(neutron_net_id)
            .bind(host)
            .bind(owner.0)
            .bind(owner.1)
            .execute(database)
            .await?;
            let row = sqlx::query_as(
                "SELECT id, uuid, project_id, user_id, name, network_id, neutron_net_id, host FROM network \
                 WHERE neutron_net_id = ? AND host = ?",
            );
            Ok(row.bind(neutron_net_id).bind(host).fetch_one(database).await?)
        })
        .await
    }

    /// Removes the row.
    pub async fn destroy(&self, database: &Database) -> Result<()> {
        idempotent(|| async {
            sqlx::query("DELETE FROM network WHERE id = ?").bind(self.id).execute(database).await?;
            Ok(())
        })
        .await
    }
}
