use cloud::{Cinder, Glance, Keystone, Neutron, Placement};

use crate::options::Options;

/// The services of the cloud that a compute host asks, as its own user.
pub struct Services {
    /// Neutron.
    pub neutron: Neutron,
    /// Placement.
    pub placement: Placement,
    /// Glance.
    pub glance: Glance,
    /// Cinder.
    pub cinder: Cinder,
}

impl Services {
    /// Clients of all, on one session.
    pub fn new(keystone: &Keystone, options: &Options) -> Self {
        Self {
            neutron: Neutron::new(keystone.clone(), options.neutron_client.clone()),
            placement: Placement::new(keystone.clone(), options.placement_client.clone()),
            glance: Glance::new(keystone.clone(), options.glance_client.clone()),
            cinder: Cinder::new(keystone.clone(), options.cinder_client.clone()),
        }
    }
}
