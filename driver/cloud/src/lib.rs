//! What a compute service asks of the rest of the cloud.

#![forbid(unsafe_code)]

mod cinder;
mod error;
mod glance;
mod http;
mod keystone;
mod neutron;
mod pace;
mod placement;
mod rest;
#[cfg(test)]
mod scripted;

pub use cinder::{Cinder, CinderVolume, VolumeAttachment};
pub use error::{Error, Result};
pub use glance::{Glance, GlanceImage};
pub use keystone::{AuthOptions, Keystone, UserToken};
pub use neutron::{DnsAssignment, FixedIp, HostRoute, Network, Neutron, NewPort, Owned, Port, Subnet};
pub use placement::{Inventory, Placement, ResourceClass};
pub use rest::ClientOptions;
