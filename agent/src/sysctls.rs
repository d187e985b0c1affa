//! Kernel parameters of the network, which is the guest's: the runtime library refuses them without a network of the
//! container's own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::error::{Error, Result};

const PARAMETERS: &str = "/proc/sys";
const NETWORK: &str = "net.";

/// Sets the network's parameters of a container that has the guest's network, and takes them out of its specification.
pub fn apply_networks(spec: &mut Spec) -> Result<()> {
    let Some(mut linux) = spec.linux().clone() else { return Ok(()) };
    let mut namespaces = linux.namespaces().iter().flatten();
    if namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
        return Ok(());
    }
    let all = linux.sysctl().clone().unwrap_or_default();
    let (networks, others): (HashMap<_, _>, HashMap<_, _>) =
        all.into_iter().partition(|(name, _)| name.starts_with(NETWORK));
    linux.set_sysctl(Some(others));
    spec.set_linux(Some(linux));
    networks.iter().try_for_each(|(name, value)| {
        std::fs::write(path_of(name)?, value).map_err(Error::io(format!("set {name} to {value:?}")))
    })
}

fn path_of(name: &str) -> Result<PathBuf> {
    if name.contains('/') || name.split('.').any(str::is_empty) {
        return Err(Error::Path { path: name.into(), reason: "it is no kernel parameter".into() });
    }
    Ok(Path::new(PARAMETERS).join(name.replace('.', "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_a_file_below_those_of_the_kernel() {
        assert_eq!(path_of("net.core.somaxconn").unwrap(), Path::new("/proc/sys/net/core/somaxconn"));
        for bad in ["net./etc/passwd", "net...x", "net.", "net.ipv4/../../x"] {
            assert!(path_of(bad).is_err(), "{bad:?} was taken");
        }
    }
}
