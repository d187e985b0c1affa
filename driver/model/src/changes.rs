use sqlx::types::Json;
use sqlx::{MySql, QueryBuilder};
use time::PrimitiveDateTime;

use crate::container::{Addresses, Container, Status, TaskState};
use crate::database::{Database, Error, Result, idempotent, now};
use crate::uuid::ContainerUuid;

/// Longest text of `status_detail`.
const STATUS_DETAIL_MAX: usize = 50;
/// Longest text of a `TEXT` column, in characters that may take four bytes each.
const TEXT_MAX: usize = 16_000;

/// Makes [`Changes`] of a table of columns: how each is named and typed, written to its row, and put into a [`Container`].
macro_rules! changes {
    ($($column:ident: $type:ty, $write:expr, $apply:expr;)+) => {
        /// Columns to write; those that are none stay. Where a column may be NULL, the inner none is NULL.
        #[derive(Debug, Clone, Default, PartialEq)]
        #[allow(missing_docs)]
        pub struct Changes {
            $(pub $column: Option<$type>,)+
        }

        impl Changes {
            /// What `self` says, and where that says nothing, what `earlier` says.
            pub fn after(self, earlier: Self) -> Self {
                Self { $($column: self.$column.or(earlier.$column),)+ }
            }

            fn assign(&self, query: &mut QueryBuilder<MySql>) {
                $(
                    if let Some(value) = self.$column.clone() {
                        let write: fn($type) -> _ = $write;
                        query.push(concat!(", ", stringify!($column), " = "));
                        query.push_bind(write(value));
                    }
                )+
            }

            /// Puts them into `container`.
            pub fn apply(self, container: &mut Container) {
                $(
                    let apply: fn($type) -> _ = $apply;
                    if let Some(value) = self.$column {
                        container.$column = apply(value);
                    }
                )+
            }
        }
    };
}

changes! {
    container_id: Option<String>, |id| id, |id| id;
    status: Status, |status| status.to_string(), |status| status;
    status_reason: Option<String>, |reason| cut(reason, TEXT_MAX), |reason| reason;
    status_detail: Option<String>, |detail| cut(detail, STATUS_DETAIL_MAX), |detail| cut(detail, STATUS_DETAIL_MAX);
    task_state: Option<TaskState>, |task| task.map(|task| task.to_string()), |task| task.map(|task| task.to_string());
    host: Option<String>, |host| host, |host| host;
    addresses: Addresses, Json, |addresses| Some(Json(addresses));
    security_groups: Vec<String>, Json, |groups| Some(Json(groups));
    hostname: String, |name| name, Some;
    ports: Vec<u16>, Json, |ports| Some(Json(ports));
    image_driver: String, |driver| driver, Some;
    runtime: String, |runtime| runtime, Some;
    disk: i32, |disk| disk, Some;
    name: String, |name| name, Some;
    cpu: f32, |cpu| cpu, Some;
    memory: String, |memory| memory, Some;
    auto_heal: bool, |heal| heal, Some;
    command: Vec<String>, Json, |command| Some(Json(command));
    entrypoint: Vec<String>, Json, |entrypoint| Some(Json(entrypoint));
    started_at: Option<PrimitiveDateTime>, |at| at, |at| at;
    websocket_url: String, |url| url, Some;
    websocket_token: String, |token| token, Some;
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

    async fn write(&self, database: &Database, uuid: ContainerUuid) -> Result<()> {
        idempotent(|| async {
            let mut query: QueryBuilder<MySql> = QueryBuilder::new("UPDATE container SET updated_at = ");
            query.push_bind(now());
            self.assign(&mut query);
            query.push(" WHERE uuid = ").push_bind(uuid.to_string());
            // Rows that are found are counted, whether or not they change.
            match query.build().execute(database).await?.rows_affected() {
                0 => Err(Error::NoContainer(uuid)),
                _ => Ok(()),
            }
        })
        .await
    }
}

impl Container {
    /// Writes `changes` to the row and to `self`. It is an error if the row is gone.
    pub async fn save(&mut self, database: &Database, changes: Changes) -> Result<()> {
        changes.write(database, self.uuid).await?;
        changes.apply(self);
        Ok(())
    }
}

fn cut(text: Option<String>, length: usize) -> Option<String> {
    text.map(|text| text.chars().take(length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_changes_win_and_earlier_ones_stay() {
        let earlier = Changes { name: Some("a".into()), ..Changes::status(Status::Created) };
        let all = Changes { cpu: Some(0.5), ..Changes::status(Status::Running) }.after(earlier);
        assert_eq!((all.name.as_deref(), all.cpu, all.status), (Some("a"), Some(0.5), Some(Status::Running)));
    }
}
