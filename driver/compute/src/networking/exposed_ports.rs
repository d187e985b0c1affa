//! Exposed ports: a security group of the container's own that lets them through (`zun/container/docker/driver.py`,
//! `_process_exposed_ports`).

use std::collections::BTreeSet;

use cloud::{Neutron, Owned};
use model::{Container, ContainerUuid};
use serde_json::Value;

use crate::error::{Error, Result};

/// A port and its protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExposedPort {
    /// The port.
    pub number: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// The ports that a row exposes, as the API writes them: `80/tcp`.
pub fn of(container: &Container) -> Result<BTreeSet<ExposedPort>> {
    let Some(Value::Object(ports)) = container.exposed_ports.as_ref().map(|json| &json.0) else {
        return Ok(BTreeSet::new());
    };
    ports.keys().map(|key| parse(key)).collect()
}

fn parse(key: &str) -> Result<ExposedPort> {
    let (number, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    match (number.parse(), protocol) {
        (Ok(number), "tcp" | "udp") => Ok(ExposedPort { number, protocol: protocol.to_owned() }),
        _ => Err(Error::invalid("exposed_ports", format!("{key:?} is no port of tcp or udp"))),
    }
}

/// Makes the group and gives its identifier. If that fails, none is left.
pub async fn open(
    neutron: &Neutron,
    owner: &Container,
    ports: &BTreeSet<ExposedPort>,
) -> Result<Option<String>> {
    if ports.is_empty() {
        return Ok(None);
    }
    let project = owner.project_id.as_deref().unwrap_or_default();
    let group = neutron.create_security_group(&name(owner.uuid), project).await?;
    for port in ports {
        if let Err(e) = neutron.let_in(&group, project, &port.protocol, port.number).await {
            neutron.delete_security_group(&group).await?;
            return Err(e.into());
        }
    }
    Ok(Some(group))
}

/// Removes the group, which no port may have any more. Idempotent: succeeds if there is none.
pub async fn close(neutron: &Neutron, container: ContainerUuid, owned: Owned<'_>) -> Result<()> {
    for group in neutron.security_groups_named(&name(container), owned).await? {
        neutron.delete_security_group(&group).await?;
    }
    Ok(())
}

/// Upstream's name of it.
fn name(owner: ContainerUuid) -> String {
    format!("zun-{owner}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_the_api_writes_them() {
        let port = |number, protocol: &str| ExposedPort { number, protocol: protocol.into() };
        assert_eq!(parse("80/tcp").unwrap(), port(80, "tcp"));
        assert_eq!(parse("53/udp").unwrap(), port(53, "udp"));
        assert_eq!(parse("8080").unwrap(), port(8080, "tcp"));
        for bad in ["", "x/tcp", "80/sctp", "70000/tcp"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
