use sqlx::types::Json;
use sqlx::{MySql, QueryBuilder};
use time::PrimitiveDateTime;

use crate::container::{Addresses, Container, ContainerUuid, Status, TaskState};
use crate::database::{Database, Result, now};

/// Longest text of `status_detail`.
const STATUS_DETAIL_MAX: usize = 50;
/// Longest text of a `TEXT` column, in characters that may take four bytes each.
const TEXT_MAX: usize = 16_000;

/// Columns to write; those that are none stay. Where a column may be NULL, the inner none is NULL.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Changes {
    pub container_id: Option<Option<String>>,
    pub status: Option<Status>,
    pub status_reason: Option<Option<String>>,
    pub status_detail: Option<Option<String>>,
    pub task_state: Option<Option<TaskState>>,
    pub host: Option<Option<String>>,
    pub addresses: Option<Addresses>,
    pub security_groups: Option<Vec<String>>,
    pub hostname: Option<String>,
    pub ports: Option<Vec<u16>>,
    pub image_driver: Option<String>,
    pub runtime: Option<String>,
    pub disk: Option<i32>,
    pub name: Option<String>,
    pub cpu: Option<f32>,
    pub memory: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub started_at: Option<Option<PrimitiveDateTime>>,
    pub websocket_url: Option<String>,
    pub websocket_token: Option<String>,
}

impl Changes {
    /// A failure: the status and why.
    pub fn error(reason: impl Into<String>) -> Self {
        Self { status: Some(Status::Error), status_reason: Some(Some(reason.into())), ..Self::default() }
    }

    /// A new status for no particular reason.
    pub fn status(status: Status) -> Self {
        Self { status: Some(status), status_reason: Some(None), ..Self::default() }
    }

    /// What is being done.
    pub fn task(task: Option<TaskState>) -> Self {
        Self { task_state: Some(task), ..Self::default() }
    }

    /// Whether the status, its reason or its detail is to become another.
    pub fn differ_from(&self, container: &Container) -> bool {
        let status = self.status.is_some_and(|status| status != container.status);
        let reason = self.status_reason.as_ref().is_some_and(|reason| *reason != container.status_reason);
        let detail = self.status_detail.as_ref().is_some_and(|detail| *detail != container.status_detail);
        status || reason || detail
    }

    /// Now, for `started_at`.
    pub fn started_now(mut self) -> Self {
        self.started_at = Some(Some(now()));
        self
    }

    pub(crate) async fn write(&self, database: &Database, uuid: ContainerUuid) -> Result<()> {
        let mut query: QueryBuilder<MySql> = QueryBuilder::new("UPDATE container SET updated_at = ");
        query.push_bind(now());
        macro_rules! set {
            ($($column:ident = $value:expr;)+) => {$(
                if let Some(value) = $value {
                    query.push(concat!(", ", stringify!($column), " = "));
                    query.push_bind(value);
                }
            )+};
        }
        set! {
            container_id = self.container_id.clone();
            status = self.status.map(|status| status.to_string());
            status_reason = self.status_reason.clone().map(|reason| cut(reason, TEXT_MAX));
            status_detail = self.status_detail.clone().map(|detail| cut(detail, STATUS_DETAIL_MAX));
            task_state = self.task_state.map(|task| task.map(|task| task.to_string()));
            host = self.host.clone();
            addresses = self.addresses.clone().map(Json);
            security_groups = self.security_groups.clone().map(Json);
            hostname = self.hostname.clone();
            ports = self.ports.clone().map(Json);
            image_driver = self.image_driver.clone();
            runtime = self.runtime.clone();
            disk = self.disk;
            name = self.name.clone();
            cpu = self.cpu;
            memory = self.memory.clone();
            command = self.command.clone().map(Json);
            entrypoint = self.entrypoint.clone().map(Json);
            started_at = self.started_at;
            websocket_url = self.websocket_url.clone();
            websocket_token = self.websocket_token.clone();
        }
        query.push(" WHERE uuid = ").push_bind(uuid.to_string());
        query.build().execute(database).await?;
        Ok(())
    }

    pub(crate) fn apply(self, container: &mut Container) {
        macro_rules! copy {
            ($($field:ident => $convert:expr;)+) => {$(
                if let Some(value) = self.$field {
                    container.$field = $convert(value);
                }
            )+};
        }
        copy! {
            container_id => |id| id;
            status => |status| status;
            status_reason => |reason| reason;
            status_detail => |detail| cut(detail, STATUS_DETAIL_MAX);
            task_state => |task: Option<TaskState>| task.map(|task| task.to_string());
            host => |host| host;
            addresses => |addresses| Some(Json(addresses));
            security_groups => |groups| Some(Json(groups));
            hostname => Some;
            ports => |ports| Some(Json(ports));
            image_driver => Some;
            runtime => Some;
            disk => Some;
            name => Some;
            cpu => Some;
            memory => Some;
            command => |command| Some(Json(command));
            entrypoint => |entrypoint| Some(Json(entrypoint));
            started_at => |at| at;
            websocket_url => Some;
            websocket_token => Some;
        }
    }
}

fn cut(text: Option<String>, length: usize) -> Option<String> {
    text.map(|text| text.chars().take(length).collect())
}
