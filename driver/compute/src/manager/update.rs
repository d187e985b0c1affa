//! `container_update` and `resize_container`: how much a container may use, now if it runs, and at its next start.

use model::{Changes, Container, Status, Usage};
use sandbox::{Situation, Size};
use serde::Deserialize;
use serde_json::Value;

use super::Manager;
use super::dispatch::Arguments;
use super::steps::require_created;
use crate::error::{Error, Result};
use crate::resources;

/// What the API lets be changed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    cpu: Option<f32>,
    memory: Option<String>,
    name: Option<String>,
}

impl Manager {
    pub(super) async fn container_update(
        &self,
        container: Container,
        arguments: &Arguments,
    ) -> Result<Value> {
        let patch: Patch = arguments.get("patch")?;
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        require_created(&container)?;
        if container.status == Status::Paused {
            let status = container.status;
            return Err(Error::State { action: "update", container: container.uuid, status });
        }
        self.resize(&mut container, patch).await?;
        container.to_wire().map_err(|e| Error::Invalid(e.to_string()))
    }

    /// All of it, or nothing.
    async fn resize(&self, container: &mut Container, patch: Patch) -> Result<()> {
        let had = self.record(container.uuid)?;
        let mut record = had.clone();
        if let Some(cpus) = patch.cpu {
            record.container.cpus = cpus;
        }
        if let Some(memory) = &patch.memory {
            let number = memory.parse();
            record.container.memory_mib =
                number.map_err(|_| Error::Invalid(format!("memory {memory:?} is no number of MiB")))?;
        }
        let size = size(&record.container);
        record.sandbox_spec(&self.options.kata).validate()?;
        // What two containers ask for at once must not be given twice.
        let _claim = self.claims.lock().await;
        let asked = Usage {
            cpu: size.cpus,
            memory: i32::try_from(size.memory_mib).unwrap_or(i32::MAX),
            disk: container.usage().disk,
        };
        resources::claim(&self.database, &self.options, container, asked).await?;

        let sandbox = self.sandbox(container.uuid);
        let id = &record.container.id;
        let runs = matches!(sandbox.situation().await, Situation::Live(_));
        if runs {
            sandbox.update(id, self::size(&had.container), size).await?;
        }
        let changes =
            Changes { cpu: patch.cpu, memory: patch.memory, name: patch.name, ..Changes::default() };
        let kept = match record.write(sandbox.path()) {
            Ok(()) => self.save(container, changes).await,
            Err(e) => Err(e),
        };
        if kept.is_err() {
            let restored = had.write(sandbox.path());
            if runs {
                sandbox.update(id, size, self::size(&had.container)).await?;
            }
            restored?;
        }
        kept
    }
}

fn size(container: &sandbox::ContainerSpec) -> Size {
    Size { cpus: container.cpus, memory_mib: container.memory_mib }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_what_the_api_sends_and_no_more() {
        let patch: Patch = serde_json::from_value(json!({ "memory": "256", "cpu": 0.5 })).unwrap();
        assert_eq!((patch.memory.as_deref(), patch.cpu), (Some("256"), Some(0.5)));
        for bad in [json!({ "disk": 3 }), json!({ "memory": 256 }), json!({ "cpu": "much" })] {
            assert!(serde_json::from_value::<Patch>(bad.clone()).is_err(), "{bad} was taken");
        }
    }
}
