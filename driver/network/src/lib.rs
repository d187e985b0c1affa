//! Plugging: from a port that Neutron has bound to this host to a tap on its bridge, and back.
//!
//! Taps and bridges are handled with the tools of iproute2 and Open vSwitch.

#![forbid(unsafe_code)]

mod command;
mod ovs;
mod tap;
mod vif;

pub use command::{Error, Result};
pub use tap::TapName;
pub use vif::Vif;
