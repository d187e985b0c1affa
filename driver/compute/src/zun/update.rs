//! `container_update` and `resize_container`: how much a container may use, now if it runs, and at its next start.

use model::{Changes, Container, ContainerUuid, Status, Usage};
use sandbox::{Situation, Size};
use serde::Deserialize;
use serde_json::Value;

use super::Manager;
use super::dispatch::Arguments;
use super::steps::require_created;
use crate::error::{Error, Result};
use crate::record::Record;
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
            if record.pinning.is_some() && cpus.to_bits() != record.container.cpus.to_bits() {
                return Err(Error::Conflict(
                    "a container with CPUs of its own keeps as many as it has".into(),
                ));
            }
            record.container.cpus = cpus;
        }
        if let Some(memory) = &patch.memory {
            let number = memory.parse();
            record.container.memory_mib =
                number.map_err(|_| Error::Invalid(format!("memory {memory:?} is no number of MiB")))?;
        }
        record.sandbox_spec(&self.options.kata).validate()?;
        let name = container.name.clone();
        self.claim_change(container, patch, size_of(&record)).await?;
        let used = self.use_size(container.uuid, &had, &record).await;
        if used.is_err() {
            had.write(self.sandbox(container.uuid).path())?;
            let Size { cpus, memory_mib } = size_of(&had);
            let memory = Some(memory_mib.to_string());
            self.save(container, Changes { cpu: Some(cpus), memory, name, ..Changes::default() }).await?;
        }
        used
    }

    /// Writes what is asked for into the row, which is the claim: one at a time, so that nothing is given twice.
    async fn claim_change(&self, container: &mut Container, patch: Patch, size: Size) -> Result<()> {
        let _turn = self.claims.lock().await;
        let asked = Usage {
            cpu: size.cpus,
            memory: i32::try_from(size.memory_mib).unwrap_or(i32::MAX),
            disk: container.usage().disk,
        };
        resources::claim(&self.database, &self.options, container.uuid, container.usage(), asked).await?;
        let Patch { cpu, memory, name } = patch;
        self.save(container, Changes { cpu, memory, name, ..Changes::default() }).await
    }

    /// A sandbox that lives gets its new size at once, another at its start.
    async fn use_size(&self, uuid: ContainerUuid, had: &Record, record: &Record) -> Result<()> {
        let sandbox = self.sandbox(uuid);
        record.write(sandbox.path())?;
        if let Situation::Live(_) = sandbox.situation().await {
            sandbox.update(&record.container.id, size_of(had), size_of(record)).await?;
        }
        Ok(())
    }
}

fn size_of(record: &Record) -> Size {
    Size { cpus: record.container.cpus, memory_mib: record.container.memory_mib }
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
