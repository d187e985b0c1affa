use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::mysql::MySqlRow;
use sqlx::types::Json;
use sqlx::{MySql, QueryBuilder};
use time::PrimitiveDateTime;

use crate::cpuset::Cpuset;
use crate::database::{Database, Error, Result, idempotent};
use crate::uuid::ContainerUuid;
use crate::{versioned, wire_cpu, wire_json, wire_time};

/// Identifiers that one statement asks for.
pub(crate) const UUIDS_AT_ONCE: usize = 500;

/// What a row of the table is (`container_type` of `zun/common/consts.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerType {
    /// A container that belongs to no capsule.
    Container = 0,
    /// A capsule.
    Capsule = 1,
    /// A container of a capsule.
    CapsuleContainer = 2,
    /// A container of a capsule that ends before the others begin.
    CapsuleInitContainer = 3,
}

impl ContainerType {
    fn of_number(number: i32) -> Option<Self> {
        let all = [Self::Container, Self::Capsule, Self::CapsuleContainer, Self::CapsuleInitContainer];
        all.into_iter().find(|kind| *kind as i32 == number)
    }
}

/// A container's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Status {
    Error,
    Running,
    Stopped,
    Paused,
    Unknown,
    Creating,
    Created,
    Deleted,
    Deleting,
    Rebuilding,
    Dead,
    Restarting,
}

/// What is being done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum TaskState {
    ImagePulling,
    ContainerCreating,
    ContainerStarting,
    ContainerDeleting,
    ContainerStopping,
    ContainerRebooting,
    ContainerPausing,
    ContainerUnpausing,
    ContainerKilling,
    SgAdding,
    SgRemoving,
    NetworkAttaching,
    NetworkDetaching,
    ContainerRebuilding,
}

macro_rules! text_column {
    ($($type:ty),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }

        impl TryFrom<String> for $type {
            type Error = serde::de::value::Error;

            fn try_from(text: String) -> std::result::Result<Self, serde::de::value::Error> {
                Self::deserialize(serde::de::value::StringDeserializer::new(text))
            }
        }
    )+};
}

text_column!(Status, TaskState);

/// One address of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub addr: String,
    /// 4 or 6.
    pub version: u8,
    /// Its Neutron port.
    pub port: String,
    /// Its subnet.
    pub subnet_id: Option<String>,
    /// Whether the port stays when the container goes.
    pub preserve_on_delete: bool,
}

/// Addresses by network.
pub type Addresses = BTreeMap<String, Vec<Address>>;

type JsonMap = Json<BTreeMap<String, String>>;

/// A container, as it travels and as its row has it.
#[derive(Debug, Clone, Serialize, Deserialize, sqlx::FromRow)]
#[allow(missing_docs)]
pub struct Container {
    pub id: i32,
    /// See [`ContainerType`]; a message has it in its object's name.
    #[serde(skip)]
    pub container_type: i32,
    #[sqlx(try_from = "String")]
    pub uuid: ContainerUuid,
    pub container_id: Option<String>,
    pub name: Option<String>,
    pub project_id: Option<String>,
    pub user_id: Option<String>,
    pub image: Option<String>,
    #[serde(with = "wire_cpu", default)]
    pub cpu: Option<f32>,
    pub cpu_policy: Option<String>,
    pub cpuset: Option<Json<Cpuset>>,
    pub memory: Option<String>,
    pub command: Option<Json<Vec<String>>>,
    #[sqlx(try_from = "String")]
    pub status: Status,
    pub status_reason: Option<String>,
    /// See [`Container::task`].
    pub task_state: Option<String>,
    pub environment: Option<JsonMap>,
    pub workdir: Option<String>,
    pub auto_remove: Option<bool>,
    pub ports: Option<Json<Vec<u16>>>,
    pub hostname: Option<String>,
    pub labels: Option<JsonMap>,
    #[serde(with = "wire_json", default)]
    pub addresses: Option<Json<Addresses>>,
    pub image_pull_policy: Option<String>,
    pub host: Option<String>,
    pub restart_policy: Option<JsonMap>,
    pub status_detail: Option<String>,
    pub interactive: Option<bool>,
    pub tty: Option<bool>,
    pub image_driver: Option<String>,
    pub websocket_url: Option<String>,
    pub websocket_token: Option<String>,
    pub security_groups: Option<Json<Vec<String>>>,
    pub runtime: Option<String>,
    pub disk: Option<i32>,
    pub auto_heal: Option<bool>,
    #[serde(with = "wire_time", default)]
    pub started_at: Option<PrimitiveDateTime>,
    #[serde(with = "wire_json", default)]
    pub exposed_ports: Option<Json<Value>>,
    pub privileged: Option<bool>,
    #[serde(with = "wire_json", default)]
    pub healthcheck: Option<Json<Value>>,
    pub registry_id: Option<i32>,
    pub entrypoint: Option<Json<Vec<String>>>,
    #[serde(with = "wire_time", default)]
    pub created_at: Option<PrimitiveDateTime>,
    #[serde(with = "wire_time", default)]
    pub updated_at: Option<PrimitiveDateTime>,
    /// Fields of the message that this service passes through.
    #[sqlx(skip)]
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What a container takes from its host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPUs.
    pub cpu: f32,
    /// MiB.
    pub memory: i32,
    /// GiB.
    pub disk: i32,
}

impl Container {
    const NAME: &'static str = "Container";
    const CAPSULE: &'static str = "Capsule";
    const MAJOR: &'static str = "1";
    /// Zun 18.0.0's version of the object.
    const VERSION: &'static str = "1.44";

    /// Whether a message's object is a capsule.
    pub fn is_capsule_on_wire(value: &Value) -> bool {
        value.get("zun_object.name").and_then(Value::as_str) == Some(Self::CAPSULE)
    }

    /// Reads a capsule from a message. Its containers are read from their rows, by [`Self::members`].
    pub fn capsule_from_wire(value: &Value) -> std::result::Result<Self, versioned::DecodeError> {
        let capsule: Self = versioned::decode(Self::CAPSULE, Self::MAJOR, value)?;
        Ok(Self { container_type: ContainerType::Capsule as i32, ..capsule })
    }

    /// Reads a container from a message.
    pub fn from_wire(value: &Value) -> std::result::Result<Self, versioned::DecodeError> {
        versioned::decode(Self::NAME, Self::MAJOR, value)
    }

    /// The container for a message.
    pub fn to_wire(&self) -> std::result::Result<Value, serde_json::Error> {
        versioned::encode(Self::NAME, Self::VERSION, self)
    }

    /// Whether its row is a capsule's.
    pub fn is_capsule(&self) -> bool {
        self.container_type == ContainerType::Capsule as i32
    }

    /// What is being done to it.
    pub fn task(&self) -> Option<TaskState> {
        TaskState::try_from(self.task_state.clone()?).ok()
    }

    /// Whether it has a process, be it paused or not.
    pub fn is_up(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// What it takes from its host.
    pub fn usage(&self) -> Usage {
        Usage {
            cpu: self.cpu.unwrap_or(0.0),
            memory: self.memory.as_deref().and_then(|memory| memory.parse().ok()).unwrap_or(0),
            disk: self.disk.unwrap_or(0),
        }
    }

    /// Reads the row of a container, a capsule, or a capsule's container.
    pub async fn get(database: &Database, kind: ContainerType, uuid: ContainerUuid) -> Result<Self> {
        Self::find(database, &[kind], uuid).await?.ok_or(Error::NoContainer(uuid))
    }

    /// Reads the row of this identifier that is of one of these kinds, if there is one.
    pub async fn find(
        database: &Database,
        kinds: &[ContainerType],
        uuid: ContainerUuid,
    ) -> Result<Option<Self>> {
        idempotent(|| async {
            let mut query = QueryBuilder::new("SELECT * FROM container WHERE uuid = ");
            query.push_bind(uuid.to_string());
            of_kinds(&mut query, kinds);
            Ok(query.build_query_as().fetch_optional(database).await?)
        })
        .await
    }

    /// Reads the rows of these kinds on a host. One that cannot be read is logged and left out.
    pub async fn list_by_host(database: &Database, kinds: &[ContainerType], host: &str) -> Result<Vec<Self>> {
        idempotent(|| async {
            let mut query = QueryBuilder::new("SELECT * FROM container WHERE host = ");
            query.push_bind(host);
            of_kinds(&mut query, kinds);
            Ok(readable(&query.build().fetch_all(database).await?))
        })
        .await
    }

    /// On which host each of these containers and capsules is by its row, those whose rows cannot be read among them.
    /// One that has no row is not in the answer.
    pub async fn hosts_of(
        database: &Database,
        uuids: &[ContainerUuid],
    ) -> Result<BTreeMap<ContainerUuid, Option<String>>> {
        let mut all = BTreeMap::new();
        for some in uuids.chunks(UUIDS_AT_ONCE) {
            let rows: Vec<(String, Option<String>)> = idempotent(|| async {
                let mut query: QueryBuilder<MySql> =
                    QueryBuilder::new("SELECT uuid, host FROM container WHERE uuid IN (");
                push_uuids(&mut query, some);
                query.push(")");
                Ok(query.build_query_as().fetch_all(database).await?)
            })
            .await?;
            all.extend(rows.into_iter().filter_map(|(uuid, host)| Some((uuid.parse().ok()?, host))));
        }
        Ok(all)
    }

    /// Reads a capsule's containers: those that end before the others begin, then the others, each in their order.
    pub async fn members(&self, database: &Database) -> Result<Vec<Self>> {
        idempotent(|| async {
            let rows = sqlx::query(
                "SELECT * FROM container WHERE capsule_id = ? AND container_type IN (?, ?) \
                 ORDER BY container_type DESC, id",
            )
            .bind(self.id)
            .bind(ContainerType::CapsuleInitContainer as i32)
            .bind(ContainerType::CapsuleContainer as i32)
            .fetch_all(database)
            .await?;
            Ok(readable(&rows))
        })
        .await
    }

    /// Removes the row, and with it the actions and, of a capsule, its containers.
    pub async fn destroy(&self, database: &Database) -> Result<()> {
        idempotent(|| async {
            sqlx::query("DELETE FROM container WHERE uuid = ?")
                .bind(self.uuid.to_string())
                .execute(database)
                .await?;
            Ok(())
        })
        .await
    }

    /// What this row is; none for a number that is not known.
    pub fn kind(&self) -> Option<ContainerType> {
        ContainerType::of_number(self.container_type)
    }
}

/// Adds the items of a list.
pub(crate) fn push_uuids(query: &mut QueryBuilder<MySql>, uuids: &[ContainerUuid]) {
    let mut list = query.separated(", ");
    for uuid in uuids {
        list.push_bind(uuid.to_string());
    }
}

fn of_kinds(query: &mut QueryBuilder<MySql>, kinds: &[ContainerType]) {
    query.push(" AND container_type IN (");
    let mut list = query.separated(", ");
    for kind in kinds {
        list.push_bind(*kind as i32);
    }
    query.push(")");
}

fn readable(rows: &[MySqlRow]) -> Vec<Container> {
    let read = rows.iter().filter_map(|row| {
        sqlx::FromRow::from_row(row)
            .inspect_err(|e| tracing::error!(error = %e, "a container's row is skipped"))
            .ok()
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A container as `zun-api` of Zun 18.0.0 sent it.
    fn captured() -> Value {
        serde_json::from_str(include_str!("../tests/container.json")).unwrap()
    }

    #[test]
    fn a_captured_container_survives() {
        let captured = captured();
        let container = Container::from_wire(&captured).unwrap();
        assert_eq!(container.uuid.to_string(), "420cf282-ebea-44b6-ae15-2d11adde338f");
        assert_eq!(container.status, Status::Creating);
        assert_eq!(container.usage(), Usage { cpu: 1.0, memory: 128, disk: 0 });
        assert_eq!(container.to_wire().unwrap(), captured);
    }

    #[test]
    fn a_capsule_is_known_as_one() {
        let mut value = captured();
        assert!(
            !Container::is_capsule_on_wire(&value) && !Container::from_wire(&value).unwrap().is_capsule()
        );
        value["zun_object.name"] = json!("Capsule");
        assert!(Container::is_capsule_on_wire(&value));
        assert!(Container::capsule_from_wire(&value).unwrap().is_capsule());
    }

    #[test]
    fn a_number_of_cpus_keeps_its_value() {
        for cpu in [json!(0.1), json!(1.0), json!(0.7), json!(2.25), json!(null)] {
            let mut value = captured();
            value["zun_object.data"]["cpu"] = cpu.clone();
            let container = Container::from_wire(&value).unwrap();
            assert_eq!(container.to_wire().unwrap()["zun_object.data"]["cpu"], cpu);
        }
    }

    #[test]
    fn json_travels_as_text() {
        let mut value = captured();
        let text = r#"{"net":[{"addr":"10.0.0.3","version":4,"port":"p","subnet_id":"s","preserve_on_delete":false}]}"#;
        value["zun_object.data"]["addresses"] = json!(text);
        let container = Container::from_wire(&value).unwrap();
        assert_eq!(container.addresses.as_ref().unwrap().0["net"][0].addr, "10.0.0.3");
        assert_eq!(container.to_wire().unwrap(), value);
        value["zun_object.data"]["addresses"] = serde_json::from_str(text).unwrap();
        assert_eq!(Container::from_wire(&value).unwrap().addresses.unwrap().0["net"][0].port, "p");
    }

    #[test]
    fn other_objects_are_refused() {
        let mut value = captured();
        value["zun_object.version"] = json!("2.0");
        assert_eq!(
            Container::from_wire(&value).unwrap_err().to_string(),
            "version 2.0 of Container is not supported"
        );
        value["zun_object.name"] = json!("Capsule");
        assert_eq!(
            Container::from_wire(&value).unwrap_err().to_string(),
            "a Container was expected, this is Capsule"
        );
        assert!(Container::from_wire(&json!(null)).is_err());
    }

    #[test]
    fn states_have_zuns_names() {
        assert_eq!(TaskState::ContainerStarting.to_string(), "container_starting");
        assert_eq!(Status::try_from("Rebuilding".to_owned()).unwrap(), Status::Rebuilding);
        assert!(Status::try_from("Flying".to_owned()).is_err());
    }
}
