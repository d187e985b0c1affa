/// A port that was plugged on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugged {
    /// The Neutron port.
    pub port: String,
    /// The container for which it was plugged, as far as that is known: an earlier release did not name it.
    pub owner: Option<String>,
}
