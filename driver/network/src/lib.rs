//! Plugging: from a port that Neutron has bound to this host to a tap on its bridge, and back.
//!
//! Links and bridges are handled with the tools of iproute2 and Open vSwitch. The alias of every link made here names
//! its port, and of a tap its container, so that no link of anybody else is touched and none of ours is left after a crash.

#![forbid(unsafe_code)]

mod command;
mod error;
mod link;
mod linux_bridge;
mod names;
mod ovs;
mod plugged;
mod survey;
mod vif;

pub use error::{Error, Result};
pub use names::DeviceNames;
pub use plugged::Plugged;
pub use survey::plugged;
pub use vif::{Unplugged, Vif, may_be_anothers, unplug};
