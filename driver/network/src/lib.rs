//! Plugging: from a port that Neutron has bound to this host to a tap on its bridge, and back.
//!
//! Links and bridges are handled with the tools of iproute2 and Open vSwitch. Every link that is made here says in its
//! alias whose it is, so that none is mistaken for another's, and none of a crash is left.

#![forbid(unsafe_code)]

mod command;
mod leftovers;
mod link;
mod linux_bridge;
mod names;
mod ovs;
mod vif;

pub use command::{Error, Result};
pub use leftovers::remove_leftovers;
pub use names::DeviceNames;
pub use vif::{Vif, unplug};
