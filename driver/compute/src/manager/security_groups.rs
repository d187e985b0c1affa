//! `add_security_group` and `remove_security_group`: on all ports of a container.

use model::{Changes, Container, TaskState};

use super::Manager;
use super::steps::Operation;
use crate::error::Result;

const ADD: Operation =
    Operation { task: TaskState::SgAdding, event: "_add_security_group", action: "add_security_group" };

const REMOVE: Operation = Operation {
    task: TaskState::SgRemoving,
    event: "_remove_security_group",
    action: "remove_security_group",
};

impl Manager {
    pub(super) async fn add_security_group(
        &self,
        request: &str,
        container: Container,
        group: &str,
    ) -> Result<()> {
        self.regroup(request, container, &ADD, |all| with(all, group)).await
    }

    pub(super) async fn remove_security_group(
        &self,
        request: &str,
        container: Container,
        group: &str,
    ) -> Result<()> {
        self.regroup(request, container, &REMOVE, |all| without(all, group)).await
    }

    async fn regroup(
        &self,
        request: &str,
        container: Container,
        operation: &Operation,
        change: impl Fn(&[String]) -> Vec<String>,
    ) -> Result<()> {
        let work = async |container: &mut Container| self.change_groups(container, &change).await;
        self.operate(request, container, operation, work).await
    }

    /// Changes the groups of all ports, or of none.
    async fn change_groups(
        &self,
        container: &mut Container,
        change: impl Fn(&[String]) -> Vec<String>,
    ) -> Result<()> {
        let mut changed = Vec::new();
        for attachment in &self.record(container.uuid)?.attachments {
            let set = async {
                let port = self.neutron.port(&attachment.port).await?;
                self.neutron.set_security_groups(&port.id, &change(&port.security_groups)).await?;
                Ok(port)
            };
            match set.await {
                Ok(port) => changed.push(port),
                Err(e) => {
                    for port in changed {
                        self.neutron.set_security_groups(&port.id, &port.security_groups).await?;
                    }
                    return Err(e);
                }
            }
        }
        let had = container.security_groups.as_ref().map(|groups| groups.0.clone()).unwrap_or_default();
        self.save(container, Changes { security_groups: Some(change(&had)), ..Changes::default() }).await
    }
}

fn with(groups: &[String], group: &str) -> Vec<String> {
    groups
        .iter()
        .map(String::as_str)
        .filter(|other| *other != group)
        .chain([group])
        .map(str::to_owned)
        .collect()
}

fn without(groups: &[String], group: &str) -> Vec<String> {
    groups.iter().filter(|other| *other != group).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_there_once_or_not_at_all() {
        let groups = ["a", "b"].map(str::to_owned);
        assert_eq!(with(&groups, "c"), ["a", "b", "c"]);
        assert_eq!(with(&groups, "a"), ["b", "a"]);
        assert_eq!(without(&groups, "a"), ["b"]);
        assert_eq!(without(&groups, "c"), ["a", "b"]);
    }
}
