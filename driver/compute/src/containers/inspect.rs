//! Calls that change nothing: show and logs. They wait for nobody who works on the container.

use model::{Changes, Container, Status};
use sandbox::{LogQuery, Tail};
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use super::core::{Core, World};
use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::executor::require_created;
use crate::lifecycle::{Event, Observed};
use crate::record::sandbox_name;

/// Why a container is shown as unknown.
const UNANSWERED: &str = "the container's sandbox does not answer";

/// A container as it is now. What differs from its row is written in its turn, by whoever follows the event.
pub async fn show<W: World>(core: &Core<W>, mut row: Container) -> Result<Container> {
    // A task that is under way writes the status itself.
    if row.container_id.is_none() || row.task_state.is_some() || row.status == Status::Deleting {
        return Ok(row);
    }
    let status = core.engine.glance(row.uuid).await;
    let observed = core.observed(row.uuid, &status);
    let seen = seen(core, &row, &observed);
    if seen.status.is_some_and(|status| status != row.status) && observed != Observed::Unanswered {
        core.tell(row.uuid, Event::Looked);
    }
    seen.apply(&mut row);
    Ok(row)
}

/// What is shown of a row. One in error stays so, with its reason, unless it runs.
fn seen<W: World>(core: &Core<W>, row: &Container, observed: &Observed) -> Changes {
    match (observed, row.status) {
        (Observed::Unanswered, _) => {
            Changes { status_reason: Some(Some(UNANSWERED.into())), ..Changes::status(Status::Unknown) }
        }
        (Observed::Lost, Status::Error) => Changes::default(),
        (Observed::Lost, _) => {
            Changes { status_detail: Some(None), ..Changes::error(Error::Lost(row.uuid).to_string()) }
        }
        (Observed::Running { .. }, _) => core.view(row.uuid, observed),
        // How it ended stands in the row; only its age grows.
        (Observed::Ended(_), Status::Stopped) => {
            let status_detail = core.view(row.uuid, observed).status_detail;
            Changes { status_detail, ..Changes::default() }
        }
        (Observed::Ended(_), Status::Running | Status::Paused) => core.view(row.uuid, observed),
        (Observed::Idle, Status::Running | Status::Paused) => core.view(row.uuid, observed),
        (Observed::Idle | Observed::Ended(_) | Observed::Partial, _) => Changes::default(),
    }
}

/// What a container has written.
pub async fn logs(engine: &HostEngine, row: &Container, query: LogQuery) -> Result<String> {
    require_created(row)?;
    let sandbox = engine.sandbox(row.uuid);
    let id = sandbox_name(row.uuid);
    // Megabytes may be read and parsed.
    let read = tokio::task::spawn_blocking(move || sandbox.logs(&id, &query)).await;
    Ok(read.map_err(|e| Error::Conflict(format!("the log could not be read: {e}")))??)
}

/// How many lines of the end, as the API sends it.
pub fn tail(value: &Value) -> Tail {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.map_or(Tail::All, |lines| Tail::Lines(usize::try_from(lines).unwrap_or(usize::MAX)))
}

/// Seconds since the epoch, or a time in upstream's format, in UTC.
pub fn since(value: &Value) -> Result<Option<OffsetDateTime>> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.to_string(),
        Value::String(text) if matches!(text.as_str(), "" | "None") => return Ok(None),
        Value::String(text) => text.clone(),
        _ => return Err(Error::invalid("since", format!("{value} is no time"))),
    };
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second],[subsecond]");
    let parsed = match text.parse() {
        Ok(seconds) => OffsetDateTime::from_unix_timestamp(seconds).ok(),
        Err(_) => time::PrimitiveDateTime::parse(&text, format).ok().map(time::PrimitiveDateTime::assume_utc),
    };
    parsed.map(Some).ok_or_else(|| Error::invalid("since", format!("{text:?} is no time")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn log_bounds_are_read() {
        assert_eq!(tail(&json!("all")), Tail::All);
        assert_eq!(tail(&json!("5")), Tail::Lines(5));
        assert_eq!(since(&json!("None")).unwrap(), None);
        assert_eq!(since(&json!("10")).unwrap().unwrap().unix_timestamp(), 10);
        assert_eq!(since(&json!("1970-01-01 00:00:10,5")).unwrap().unwrap().unix_timestamp(), 10);
        assert!(since(&json!("yesterday")).is_err());
    }
}
