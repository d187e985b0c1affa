use std::path::Path;

use crate::names::DeviceNames;

/// What went through a port since it was plugged, as its guest sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that the guest received.
    pub received_packets: u64,
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
    /// Packets that the guest sent.
    pub sent_packets: u64,
}

/// The counters of a port; none if it is not plugged. What its tap transmits is what its guest receives.
pub fn counters(port: &str) -> Option<Counters> {
    let folder = Path::new("/sys/class/net").join(DeviceNames::of_port(port).tap).join("statistics");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    Some(Counters {
        received_bytes: read("tx_bytes")?,
        received_packets: read("tx_packets")?,
        sent_bytes: read("rx_bytes")?,
        sent_packets: read("rx_packets")?,
    })
}
