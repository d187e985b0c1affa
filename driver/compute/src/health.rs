//! Health checks: a command that runs in a container from time to time, as Docker does it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Container, ContainerUuid};
use sandbox::Exec;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::lifecycle::Event;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
/// How much longer than a check may take its sandbox may take to say that it did.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A container's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It has not been found out yet.
    Starting,
    /// The last check went well.
    Healthy,
    /// As many checks in a row as it takes went wrong.
    Unhealthy,
}

/// As Docker shows it behind a container's age.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "health: starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// How a container's health is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// A command for the container's shell.
    test: String,
    interval: Duration,
    timeout: Duration,
    retries: u32,
}

impl HealthCheck {
    /// The check of a container's row, if it has one. Zero stands for Docker's default.
    pub fn of(container: &Container) -> Result<Option<Self>> {
        let Some(Value::Object(fields)) = container.healthcheck.as_ref().map(|json| &json.0) else {
            return Ok(None);
        };
        let number = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => value
                .as_u64()
                .or_else(|| value.as_str()?.parse().ok())
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| Error::invalid("healthcheck", format!("{name} {value} is no number"))),
        };
        let seconds = |name, default| match number(name)? {
            0 => Ok::<_, Error>(default),
            seconds => Ok(Duration::from_secs(seconds.into())),
        };
        let retries = match number("retries")? {
            0 => RETRIES,
            retries => retries,
        };
        match fields.get("test") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(test)) if test.is_empty() => Ok(None),
            Some(Value::String(test)) => Ok(Some(Self {
                test: test.clone(),
                interval: seconds("interval", INTERVAL)?,
                timeout: seconds("timeout", TIMEOUT)?,
                retries,
            })),
            Some(other) => Err(Error::invalid("healthcheck", format!("{other} is no command"))),
        }
    }
}

/// What is known of all containers' health.
#[derive(Default)]
pub struct HealthBook(Mutex<HashMap<ContainerUuid, Health>>);

impl HealthBook {
    /// A container's health, if it is checked.
    pub fn get(&self, uuid: ContainerUuid) -> Option<Health> {
        self.all().get(&uuid).copied()
    }

    fn set(&self, uuid: ContainerUuid, health: Health) -> bool {
        self.all().insert(uuid, health) != Some(health)
    }

    fn forget(&self, uuid: ContainerUuid) {
        self.all().remove(&uuid);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ContainerUuid, Health>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks the health of containers that run.
#[derive(Clone)]
pub struct HealthChecks {
    engine: HostEngine,
    book: Arc<HealthBook>,
    happened: UnboundedSender<(ContainerUuid, Event)>,
}

impl HealthChecks {
    /// Checks that tell of changes.
    pub fn new(engine: HostEngine, happened: UnboundedSender<(ContainerUuid, Event)>) -> Self {
        Self { engine, book: Arc::default(), happened }
    }

    /// A container's health, if it is checked.
    pub fn get(&self, uuid: ContainerUuid) -> Option<Health> {
        self.book.get(uuid)
    }

    /// Checks a container's health until this is dropped. Without a check it does nothing for ever.
    pub async fn keep_checking(&self, row: &Container) {
        match HealthCheck::of(row) {
            Ok(Some(check)) => self.check_on(row.uuid, &check).await,
            Ok(None) => {}
            Err(e) => tracing::warn!(error = %e, "a container's health is not checked"),
        }
        std::future::pending().await
    }

    async fn check_on(&self, uuid: ContainerUuid, check: &HealthCheck) {
        let _entry = Entry { book: &self.book, uuid };
        let mut failures = 0;
        self.book.set(uuid, Health::Starting);
        loop {
            tokio::time::sleep(check.interval).await;
            let health = match self.check_once(uuid, check).await {
                Ok(true) => {
                    failures = 0;
                    Health::Healthy
                }
                Ok(false) => {
                    failures += 1;
                    if failures < check.retries {
                        continue;
                    }
                    Health::Unhealthy
                }
                // A sandbox that is paused, or ends.
                Err(e) => {
                    tracing::debug!(error = %e, "a container's health cannot be checked");
                    continue;
                }
            };
            if self.book.set(uuid, health) {
                tracing::info!(%health, "a container's health has changed");
                // Nobody hears of it where the service stops.
                let _ = self.happened.send((uuid, Event::HealthChanged));
            }
        }
    }

    async fn check_once(&self, uuid: ContainerUuid, check: &HealthCheck) -> Result<bool> {
        let record = self.engine.record(uuid)?;
        let Some(main) = record.main_process() else { return Ok(true) };
        let spec = &main.container;
        let command = ["/bin/sh".into(), "-c".into(), check.test.clone()];
        let exec = Exec {
            process: spec.process(&command, false)?,
            container: spec.id.clone(),
            user: spec.user.clone(),
            time_limit: Some(check.timeout),
        };
        let sandbox = self.engine.sandbox(uuid);
        match timeout(check.timeout + ANSWER_TIMEOUT, sandbox.exec(exec)).await {
            Ok(Ok(result)) => Ok(result.status == 0),
            Err(_) | Ok(Err(sandbox::Error::TimedOut)) => Ok(false),
            Ok(Err(e)) => Err(e.into()),
        }
    }
}

/// Health that is no longer checked is not known.
struct Entry<'a> {
    book: &'a HealthBook,
    uuid: ContainerUuid,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.book.forget(self.uuid);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: Value) -> Result<Option<HealthCheck>> {
        let captured = include_str!("../../model/tests/container.json");
        let mut container: Value = serde_json::from_str(captured).unwrap();
        container["zun_object.data"]["healthcheck"] = value;
        HealthCheck::of(&Container::from_wire(&container).unwrap())
    }

    #[test]
    fn a_check_is_read_with_dockers_defaults() {
        assert_eq!(check(json!(null)).unwrap(), None);
        assert_eq!(check(json!({})).unwrap(), None);
        let read = check(json!({ "test": "true", "interval": 5, "timeout": 0, "retries": "2" })).unwrap();
        let expected = HealthCheck {
            test: "true".into(),
            interval: Duration::from_secs(5),
            timeout: TIMEOUT,
            retries: 2,
        };
        assert_eq!(read, Some(expected));
        for bad in [
            json!({ "test": 7 }),
            json!({ "test": "true", "interval": "soon" }),
            json!({ "test": "x", "retries": -1 }),
        ] {
            assert!(check(bad.clone()).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn what_is_no_longer_checked_is_forgotten() {
        let (book, uuid) = (HealthBook::default(), ContainerUuid(uuid::Uuid::new_v4()));
        let entry = Entry { book: &book, uuid };
        assert!(book.set(uuid, Health::Healthy) && !book.set(uuid, Health::Healthy));
        assert_eq!(book.get(uuid), Some(Health::Healthy));
        drop(entry);
        assert_eq!(book.get(uuid), None);
    }
}
