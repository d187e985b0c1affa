//! State synchronisation: the rows of this host's containers against what its sandboxes have written. One query, and no
//! call to a sandbox whose row is right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use model::{Container, ContainerType, Status};
use sandbox::Situation;
use tracing::Instrument;

use super::status::observed;
use super::{Manager, background_span};
use crate::error::Result;

/// What a row needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// This host has nothing of it.
    Healing,
    /// It ended, and nobody saw it.
    Ending,
    /// Its status is another's.
    Observing,
}

impl Manager {
    /// Compares all, and mends what differs.
    pub async fn synchronise(self: &Arc<Self>) -> Result<()> {
        let began = Instant::now();
        let kinds = [ContainerType::Container, ContainerType::Capsule];
        let rows = Container::list_by_host(&self.database, &kinds, self.hostname()).await?;
        let situations = self.host.survey()?;
        let count = rows.len();
        let mut mended = 0;
        for row in rows {
            let need = need(&row, &situations);
            if need == Need::Nothing {
                continue;
            }
            mended += 1;
            let span = background_span(row.uuid);
            if let Err(e) = self.mend(row, &need).instrument(span.clone()).await {
                span.in_scope(|| tracing::error!("its state cannot be mended: {e}"));
            }
        }
        tracing::debug!(count, mended, "states compared in {} us", began.elapsed().as_micros());
        Ok(())
    }

    /// What was seen may have changed in the meantime: each of these looks again in the container's turn.
    async fn mend(self: &Arc<Self>, row: Container, need: &Need) -> Result<()> {
        let uuid = row.uuid;
        match need {
            Need::Nothing => Ok(()),
            Need::Healing => self.heal_if_lost(uuid).await,
            Need::Ending if row.is_capsule() => self.capsule_ended(uuid).await,
            Need::Ending => self.ended(uuid).await,
            Need::Observing => {
                let _turn = self.locks.lock(uuid).await;
                self.observe(uuid).await
            }
        }
    }
}

fn need(row: &Container, situations: &BTreeMap<String, Situation>) -> Need {
    let unstable =
        matches!(row.status, Status::Creating | Status::Deleting | Status::Deleted | Status::Rebuilding);
    if unstable || row.task_state.is_some() || row.container_id.is_none() {
        return Need::Nothing;
    }
    let id = row.uuid.to_string();
    let Some(situation) = situations.get(&id) else {
        // One that is said to be lost is said so once.
        let known = row.status == Status::Error && !row.auto_heal.unwrap_or(false);
        return if known || row.is_capsule() { Need::Nothing } else { Need::Healing };
    };
    let lives = matches!(situation, Situation::Live(_));
    if row.is_capsule() {
        return if row.is_up() && !lives { Need::Ending } else { Need::Nothing };
    }
    if row.is_up() && !situation.runs(&id) {
        return Need::Ending;
    }
    let status = observed(row, situation, None).and_then(|changes| changes.status);
    if situation.runs(&id) && status.is_some_and(|status| status != row.status) {
        Need::Observing
    } else {
        Need::Nothing
    }
}

#[cfg(test)]
mod tests {
    use sandbox::{Phase, SandboxState};
    use serde_json::{Value, json};

    use super::*;

    fn row(status: &str, more: &[(&str, Value)]) -> Container {
        let captured = include_str!("../../../model/tests/container.json");
        let mut container: Value = serde_json::from_str(captured).unwrap();
        let data = &mut container["zun_object.data"];
        data["status"] = json!(status);
        data["container_id"] = data["uuid"].clone();
        for (name, value) in more {
            data[name] = value.clone();
        }
        Container::from_wire(&container).unwrap()
    }

    fn situations(phase: Phase, runs: bool) -> BTreeMap<String, Situation> {
        let id = row("Running", &[]).uuid.to_string();
        let state = SandboxState {
            phase,
            containers: if runs { [(id.clone(), None)].into() } else { BTreeMap::new() },
            from_template: false,
            stages: BTreeMap::new(),
        };
        let situation = if state.is_live() { Situation::Live(state) } else { Situation::Over(state) };
        [(id, situation)].into()
    }

    #[test]
    fn only_what_differs_is_mended() {
        let (runs, ended) = (situations(Phase::Ready, true), situations(Phase::Ended, false));
        assert_eq!(need(&row("Running", &[]), &runs), Need::Nothing);
        assert_eq!(need(&row("Stopped", &[]), &ended), Need::Nothing);
        assert_eq!(need(&row("Running", &[]), &ended), Need::Ending);
        assert_eq!(need(&row("Error", &[]), &runs), Need::Observing);
        assert_eq!(need(&row("Running", &[]), &situations(Phase::Paused, true)), Need::Observing);
        let busy = row("Running", &[("task_state", json!("container_stopping"))]);
        assert_eq!(need(&busy, &ended), Need::Nothing);
        assert_eq!(need(&row("Creating", &[]), &BTreeMap::new()), Need::Nothing);
    }

    #[test]
    fn what_is_lost_is_said_once_and_healed_where_that_is_asked_for() {
        let nothing = BTreeMap::new();
        assert_eq!(need(&row("Running", &[]), &nothing), Need::Healing);
        assert_eq!(need(&row("Error", &[]), &nothing), Need::Nothing);
        assert_eq!(need(&row("Error", &[("auto_heal", json!(true))]), &nothing), Need::Healing);
        assert_eq!(need(&row("Error", &[("container_id", Value::Null)]), &nothing), Need::Nothing);
    }
}
