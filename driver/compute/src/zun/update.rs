//! `container_update` and `resize_container`: how much a container may use, now if it runs, and at its next start; and what else
//! of it can be changed.

use std::sync::Arc;

use model::{Changes, Container, Usage};
use sandbox::{SandboxStatus, Size};
use serde::Deserialize;

use super::Zun;
use crate::containers::Core;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::executor::require_created;
use crate::options::Kata;
use crate::record::{SandboxRecord, sandbox_name};
use crate::resources::Resources;
use crate::rows::Rows;

/// What the API lets be changed (`zun/api/controllers/v1/schemas/containers.py`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    cpu: Option<f32>,
    memory: Option<String>,
    name: Option<String>,
    auto_heal: Option<bool>,
}

/// Changes containers that are there.
pub struct Updates {
    core: Arc<Core<Zun>>,
    resources: Resources,
    kata: Arc<Kata>,
}

impl Updates {
    /// Changes of the containers of `core`.
    pub fn new(core: Arc<Core<Zun>>, resources: Resources, kata: Arc<Kata>) -> Self {
        Self { core, resources, kata }
    }

    /// Changes all that the patch says, or nothing. The caller has the container's turn.
    pub async fn update(&self, mut row: Container, patch: Patch) -> Result<Container> {
        require_created(&row)?;
        let had = self.core.engine.record(row.uuid)?;
        let mut record = had.clone();
        resize(&mut record, &row, &patch)?;
        record.sandbox_spec(&self.kata).validate()?;
        let before = Changes {
            cpu: row.cpu,
            memory: row.memory.clone(),
            name: row.name.clone(),
            auto_heal: row.auto_heal,
            ..Changes::default()
        };
        let size = size_of(&record, &row)?;
        if let Err(e) = self.claim(&mut row, patch, size).await {
            if matches!(&e, Error::Database(lost) if lost.is_transient()) {
                // The database may have taken it all the same.
                self.core.executor.write(&mut row, before).await;
            }
            return Err(e);
        }
        if let Err(e) = self.put_to_use(&row, &had, &record).await {
            self.core.engine.write_record(row.uuid, &had)?;
            self.core.executor.write(&mut row, before).await;
            return Err(e);
        }
        Ok(row)
    }

    /// Writes what is asked for into the row, which is the claim.
    async fn claim(&self, row: &mut Container, patch: Patch, size: Size) -> Result<()> {
        let _claiming = self.resources.claiming().await;
        let asked = Usage {
            cpu: size.cpus,
            memory: i32::try_from(size.memory_mib).unwrap_or(i32::MAX),
            disk: row.usage().disk,
        };
        self.resources.claim(row.uuid, row.usage(), asked).await?;
        let Patch { cpu, memory, name, auto_heal } = patch;
        let changes = Changes { cpu, memory, name, auto_heal, ..Changes::default() };
        self.core.executor.rows().save(row, changes).await
    }

    /// A sandbox that lives gets its new size at once, another at its start. One that is paused goes on for the moment that
    /// takes.
    async fn put_to_use(&self, row: &Container, had: &SandboxRecord, record: &SandboxRecord) -> Result<()> {
        let (before, after) = (size_of(had, row)?, size_of(record, row)?);
        self.core.engine.write_record(row.uuid, record)?;
        let sandbox = self.core.engine.sandbox(row.uuid);
        if before == after {
            return Ok(());
        }
        match sandbox.status().await {
            status if status.is_paused() => {
                sandbox.resume().await?;
                let updated = sandbox.update(sandbox.id(), before, after).await;
                sandbox.pause().await?;
                Ok(updated?)
            }
            SandboxStatus::Live(_) => Ok(sandbox.update(sandbox.id(), before, after).await?),
            SandboxStatus::Unanswered => Err(Error::Unanswered(row.uuid)),
            SandboxStatus::Over(_) | SandboxStatus::Absent => Ok(()),
        }
    }
}

fn resize(record: &mut SandboxRecord, row: &Container, patch: &Patch) -> Result<()> {
    let is_pinned = record.pinning.is_some();
    let spec = &mut record.member_mut(&sandbox_name(row.uuid))?.container;
    if let Some(cpus) = patch.cpu {
        if is_pinned && cpus.to_bits() != spec.cpus.to_bits() {
            return Err(Error::Conflict("a container with CPUs of its own keeps as many as it has".into()));
        }
        spec.cpus = cpus;
    }
    if let Some(memory) = &patch.memory {
        let number = memory.parse();
        spec.memory_mib =
            number.map_err(|_| Error::invalid("memory", format!("{memory:?} is no number of MiB")))?;
    }
    Ok(())
}

fn size_of(record: &SandboxRecord, row: &Container) -> Result<Size> {
    let spec = &record.member(&sandbox_name(row.uuid))?.container;
    Ok(Size { cpus: spec.cpus, memory_mib: spec.memory_mib })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_what_the_api_sends_and_no_more() {
        let patch: Patch =
            serde_json::from_value(json!({ "memory": "256", "cpu": 0.5, "auto_heal": true })).unwrap();
        assert_eq!(
            (patch.memory.as_deref(), patch.cpu, patch.auto_heal),
            (Some("256"), Some(0.5), Some(true))
        );
        for bad in [json!({ "disk": 3 }), json!({ "memory": 256 }), json!({ "cpu": "much" })] {
            assert!(serde_json::from_value::<Patch>(bad.clone()).is_err(), "{bad} was taken");
        }
    }
}
