use serde::{Deserialize, Serialize};

/// A network that `container_create` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedNetwork {
    /// The Neutron network.
    pub network: String,
    /// A port that exists already; empty asks for a new one.
    #[serde(default)]
    pub port: String,
    /// An address that the new port must have; empty asks for any.
    #[serde(default)]
    pub fixed_ip: String,
    /// Whether the port stays when the container goes.
    #[serde(default)]
    pub preserve_on_delete: bool,
    /// Set where a PCI device is asked for.
    #[serde(default)]
    pub pci_request_id: Option<String>,
}
