//! Allocations in Placement of containers that are nowhere any more. Zun's scheduler allocates before it sends a creation. If its
//! message is lost with the broker, and the user deletes the container, Zun removes the row and nobody removes the allocation.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use cloud::Placement;
use model::{ComputeNode, Container, ContainerUuid, Database};

use crate::belongings::Debts;
use crate::creations::Creations;
use crate::engine::{Engine, HostEngine};
use crate::error::Result;

/// What finds such allocations, and gives them back.
pub struct StrayAllocations {
    database: Database,
    placement: Placement,
    engine: HostEngine,
    creations: Creations,
    debts: Debts,
    host: String,
    /// Those whose container was nowhere at the last look: one that is about to come, or to go, is somewhere at the next.
    suspects: Mutex<BTreeSet<ContainerUuid>>,
}

impl StrayAllocations {
    /// Allocations of this host.
    pub fn new(
        database: Database,
        placement: Placement,
        engine: HostEngine,
        creations: Creations,
        debts: Debts,
        host: String,
    ) -> Self {
        Self { database, placement, engine, creations, debts, host, suspects: Mutex::default() }
    }

    /// Those that were stray at the last look too.
    pub async fn find(&self) -> Result<BTreeSet<ContainerUuid>> {
        let Some(provider) = ComputeNode::uuid_of(&self.database, &self.host).await? else {
            return Ok(BTreeSet::new());
        };
        let consumers = self.placement.consumers(provider).await?;
        let stray = self.stray(consumers.into_iter().map(ContainerUuid).collect()).await?;
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(confirmed(&mut suspects, stray))
    }

    /// Gives one back, unless its container is somewhere by now. The caller has its turn.
    pub async fn give_back(&self, uuid: ContainerUuid) -> Result<()> {
        if self.stray(BTreeSet::from([uuid])).await?.is_empty() {
            return Ok(());
        }
        self.placement.delete_allocations(&uuid.to_string()).await?;
        tracing::warn!(
            "an allocation in Placement was left by a container that is nowhere any more, and is given back"
        );
        Ok(())
    }

    /// Those of the consumers that have neither a row, wherever it is, nor a sandbox, a creation or a debt here. What cannot be
    /// found out is an error.
    async fn stray(&self, mut consumers: BTreeSet<ContainerUuid>) -> Result<BTreeSet<ContainerUuid>> {
        let asked: Vec<_> = consumers.iter().copied().collect();
        let rows = Container::hosts_of(&self.database, &asked).await?;
        consumers.retain(|uuid| !rows.contains_key(uuid));
        if !consumers.is_empty() {
            let sandboxes = self.engine.survey()?.into_keys();
            let here = sandboxes.chain(self.creations.containers()?).chain(self.debts.containers()?);
            here.for_each(|uuid| {
                consumers.remove(&uuid);
            });
        }
        Ok(consumers)
    }
}

/// Those that are stray now and were suspected before. From now on those that are stray now are suspected.
fn confirmed(
    suspects: &mut BTreeSet<ContainerUuid>,
    stray: BTreeSet<ContainerUuid>,
) -> BTreeSet<ContainerUuid> {
    let before = std::mem::replace(suspects, stray);
    suspects.intersection(&before).copied().collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_stray_twice_in_a_row_is_given_back() {
        let set = |numbers: &[u128]| numbers.iter().map(|n| ContainerUuid(Uuid::from_u128(*n))).collect();
        let mut suspects = BTreeSet::new();
        assert_eq!(confirmed(&mut suspects, set(&[1, 2])), set(&[]));
        assert_eq!(confirmed(&mut suspects, set(&[2, 3])), set(&[2]));
        assert_eq!(confirmed(&mut suspects, set(&[1])), set(&[]), "it was somewhere in between");
        assert_eq!(confirmed(&mut suspects, set(&[])), set(&[]));
    }
}
