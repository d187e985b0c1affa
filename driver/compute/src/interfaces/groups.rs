//! `add_security_group` and `remove_security_group`: on all ports of a container, or on none.

use std::collections::BTreeMap;

use model::{Changes, Container, ContainerUuid};

use super::Interfaces;
use crate::engine::Engine;
use crate::error::Result;
use crate::record::SandboxRecord;

/// A security group comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// It is there from now on, once.
    Add(String),
    /// It is there no more.
    Remove(String),
}

impl GroupChange {
    fn apply(&self, groups: &[String]) -> Vec<String> {
        let (Self::Add(group) | Self::Remove(group)) = self;
        let others = groups.iter().filter(|other| *other != group).cloned();
        match self {
            Self::Add(group) => others.chain([group.clone()]).collect(),
            Self::Remove(_) => others.collect(),
        }
    }
}

/// Changes the groups of all ports of a container. What they were is recorded first: an interruption is taken back, as long as
/// the row does not have the change.
pub async fn change_groups(
    interfaces: &Interfaces,
    row: &Container,
    change: &GroupChange,
) -> Result<Changes> {
    let (uuid, engine) = (row.uuid, &interfaces.engine);
    let mut record = engine.record(uuid)?;
    let had = row.security_groups.as_ref().map(|groups| groups.0.clone()).unwrap_or_default();
    restore_groups(interfaces, uuid, &mut record, &had).await?;
    let mut before = BTreeMap::new();
    for attachment in &record.attachments {
        let port = interfaces.neutron.port(&attachment.port).await?;
        before.insert(port.id, port.security_groups);
    }
    let then = change.apply(&had);
    record.regrouping = Some(before.clone());
    record.regrouped = Some(then.clone());
    engine.write_record(uuid, &record)?;
    for (port, groups) in &before {
        if let Err(e) = interfaces.neutron.set_security_groups(port, &change.apply(groups)).await {
            restore_groups(interfaces, uuid, &mut record, &had).await?;
            return Err(e.into());
        }
    }
    Ok(Changes { security_groups: Some(then), ..Changes::default() })
}

/// Gives ports the groups that they had before a change that did not come to its end: the row, which says `groups`, has not got it.
pub async fn restore_groups(
    interfaces: &Interfaces,
    uuid: ContainerUuid,
    record: &mut SandboxRecord,
    groups: &[String],
) -> Result<()> {
    let Some(before) = record.regrouping.clone() else { return Ok(()) };
    if record.regrouped.as_deref() != Some(groups) {
        for (port, groups) in &before {
            match interfaces.neutron.set_security_groups(port, groups).await {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
    }
    (record.regrouping, record.regrouped) = (None, None);
    interfaces.engine.write_record(uuid, record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_there_once_or_not_at_all() {
        let groups = ["a", "b"].map(str::to_owned);
        let with = |group: &str| GroupChange::Add(group.into()).apply(&groups);
        let without = |group: &str| GroupChange::Remove(group.into()).apply(&groups);
        assert_eq!(with("c"), ["a", "b", "c"]);
        assert_eq!(with("a"), ["b", "a"]);
        assert_eq!(without("a"), ["b"]);
        assert_eq!(without("c"), ["a", "b"]);
    }
}
