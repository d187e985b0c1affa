/// Characters of a port's identifier in its devices' names: with a prefix of three they fill an interface's name.
const ID_LENGTH: usize = 11;

/// The names of one port's devices on this host, which Neutron's agents derive in the same way (`NIC_NAME_LEN` and the
/// prefixes of `neutron_lib/constants.py`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNames {
    /// The tap that the guest has.
    pub tap: String,
    /// The Linux bridge of a hybrid plug.
    pub hybrid_bridge: String,
    /// Its link's end on that bridge.
    pub bridge_end: String,
    /// Its link's end on the integration bridge.
    pub ovs_end: String,
}

impl DeviceNames {
    /// The names for the port `id`.
    pub fn of_port(id: &str) -> Self {
        let short: String = id.chars().take(ID_LENGTH).collect();
        let name = |prefix: &str| format!("{prefix}{short}");
        Self { tap: name("tap"), hybrid_bridge: name("qbr"), bridge_end: name("qvb"), ovs_end: name("qvo") }
    }
}

/// The Linux bridge of a network whose port does not name one.
pub fn bridge_of_network(id: &str) -> String {
    format!("brq{}", id.chars().take(ID_LENGTH).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_interface() {
        let names = DeviceNames::of_port("d8c83230-3c87-41a2-84c8-7d9c36eb3277");
        assert_eq!(names.tap, "tapd8c83230-3c");
        assert_eq!(names.ovs_end, "qvod8c83230-3c");
        assert!(names.tap.len() < 16);
        assert_eq!(bridge_of_network("0a1b2c3d-4e5f-6789-abcd-ef0123456789"), "brq0a1b2c3d-4e");
    }
}
