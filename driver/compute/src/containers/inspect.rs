//! Calls that change nothing: show and logs.

use model::Container;
use sandbox::{LogQuery, Tail};
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use super::Manager;
use super::dispatch::Arguments;
use super::status::observed;
use super::steps::require_created;
use crate::error::{Error, Result};

impl Manager {
    pub(super) async fn container_show(&self, mut container: Container) -> Result<Value> {
        // A task that is under way writes the status itself.
        if container.container_id.is_some() && container.task_state.is_none() {
            let situation = self.host().sandbox(&container.uuid.to_string()).situation().await;
            let changes = observed(&container, &situation, self.health.get(container.uuid));
            // What the row says already is not written again.
            if let Some(changes) = changes.filter(|changes| changes.differ_from(&container)) {
                self.save(&mut container, changes).await?;
            }
        }
        container.to_wire().map_err(|e| Error::Invalid(e.to_string()))
    }

    pub(super) fn container_logs(&self, container: Container, arguments: &Arguments) -> Result<Value> {
        require_created(&container)?;
        let query = LogQuery {
            stdout: arguments.get::<Option<bool>>("stdout")?.unwrap_or(true),
            stderr: arguments.get::<Option<bool>>("stderr")?.unwrap_or(true),
            timestamps: arguments.get::<Option<bool>>("timestamps")?.unwrap_or(false),
            tail: tail(arguments.raw("tail")),
            since: since(arguments.raw("since"))?,
        };
        let id = container.uuid.to_string();
        Ok(Value::String(self.host().sandbox(&id).logs(&id, &query)?))
    }
}

fn tail(value: &Value) -> Tail {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.map_or(Tail::All, |lines| Tail::Lines(usize::try_from(lines).unwrap_or(usize::MAX)))
}

/// Seconds since the epoch, or a time in upstream's format, in UTC.
fn since(value: &Value) -> Result<Option<OffsetDateTime>> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.to_string(),
        Value::String(text) if matches!(text.as_str(), "" | "None") => return Ok(None),
        Value::String(text) => text.clone(),
        _ => return Err(Error::Invalid(format!("since: {value} is no time"))),
    };
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second],[subsecond]");
    let parsed = match text.parse() {
        Ok(seconds) => OffsetDateTime::from_unix_timestamp(seconds).ok(),
        Err(_) => time::PrimitiveDateTime::parse(&text, format).ok().map(time::PrimitiveDateTime::assume_utc),
    };
    parsed.map(Some).ok_or_else(|| Error::Invalid(format!("since: {text:?} is no time")))
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
