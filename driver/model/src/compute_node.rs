use ::uuid::Uuid;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use crate::database::{Database, Result, idempotent, now};

/// A host's row in `compute_node`. Memory is in MiB, disk in GiB.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
#[allow(missing_docs)]
pub struct ComputeNode {
    pub uuid: String,
    pub hostname: String,
    pub numa_topology: Json<NumaTopology>,
    pub mem_total: i32,
    pub mem_free: i32,
    pub mem_available: i32,
    pub mem_used: i32,
    pub total_containers: i32,
    pub running_containers: i32,
    pub paused_containers: i32,
    pub stopped_containers: i32,
    pub cpus: i32,
    pub cpu_used: f32,
    pub architecture: Option<String>,
    pub os_type: Option<String>,
    pub os: Option<String>,
    pub kernel_version: Option<String>,
    pub disk_total: i32,
    pub disk_used: i32,
    pub disk_quota_supported: bool,
    pub runtimes: Option<Json<Vec<String>>>,
    pub enable_cpu_pinning: bool,
}

/// The host's NUMA nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaTopology {
    /// The nodes.
    pub nodes: Vec<NumaNode>,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpuset: Vec<u32>,
    /// Those that a container has to itself.
    pub pinned_cpus: Vec<u32>,
    /// Memory in MiB.
    pub mem_total: u64,
    /// Memory in MiB that no pinned container has.
    pub mem_available: u64,
}

impl ComputeNode {
    /// The identifier of a host's row, which is that of its resource provider too.
    pub async fn uuid_of(database: &Database, hostname: &str) -> Result<Option<Uuid>> {
        idempotent(|| async {
            let uuid: Option<String> = sqlx::query_scalar("SELECT uuid FROM compute_node WHERE hostname = ?")
                .bind(hostname)
                .fetch_optional(database)
                .await?;
            Ok(uuid.and_then(|uuid| uuid.parse().ok()))
        })
        .await
    }

    /// Gives the row of a host that was renamed its new name, if there is none of that yet: the host's resource provider, and with
    /// it what its containers have of it, stays the same.
    pub async fn rename(database: &Database, from: &str, to: &str) -> Result<()> {
        if Self::uuid_of(database, to).await?.is_some() {
            return Ok(());
        }
        idempotent(|| async {
            sqlx::query("UPDATE compute_node SET hostname = ? WHERE hostname = ?")
                .bind(to)
                .bind(from)
                .execute(database)
                .await?;
            Ok(())
        })
        .await
    }

    /// Writes the row, made if there is none.
    pub async fn save(&self, database: &Database) -> Result<()> {
        const COLUMNS: &str = "hostname, numa_topology, mem_total, mem_free, mem_available, mem_used, \
            total_containers, running_containers, paused_containers, stopped_containers, cpus, cpu_used, \
            architecture, os_type, os, kernel_version, disk_total, disk_used, disk_quota_supported, runtimes, \
            enable_cpu_pinning";
        let updates: Vec<_> = COLUMNS
            .split(", ")
            .map(|column| format!("{} = VALUES({})", column.trim(), column.trim()))
            .collect();
        let marks = vec!["?"; COLUMNS.split(',').count()].join(", ");
        let statement = format!(
            "INSERT INTO compute_node (uuid, rp_uuid, created_at, labels, {COLUMNS}) VALUES (?, ?, ?, '{{}}', {marks}) \
             ON DUPLICATE KEY UPDATE updated_at = VALUES(created_at), {}",
            updates.join(", ")
        );
        idempotent(|| async {
            sqlx::query(sqlx::AssertSqlSafe(statement.as_str()))
                .bind(&self.uuid)
                .bind(&self.uuid)
                .bind(now())
                .bind(&self.hostname)
                .bind(&self.numa_topology)
                .bind(self.mem_total)
                .bind(self.mem_free)
                .bind(self.mem_available)
                .bind(self.mem_used)
                .bind(self.total_containers)
                .bind(self.running_containers)
                .bind(self.paused_containers)
                .bind(self.stopped_containers)
                .bind(self.cpus)
                .bind(self.cpu_used)
                .bind(&self.architecture)
                .bind(&self.os_type)
                .bind(&self.os)
                .bind(&self.kernel_version)
                .bind(self.disk_total)
                .bind(self.disk_used)
                .bind(self.disk_quota_supported)
                .bind(&self.runtimes)
                .bind(self.enable_cpu_pinning)
                .execute(database)
                .await?;
            Ok(())
        })
        .await
    }
}
