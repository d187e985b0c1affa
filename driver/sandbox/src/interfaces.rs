//! A sandbox's interfaces, which come and go while it runs.

use shim_control::{InsertNic, Nic, RateLimit};

use crate::error::Result;
use crate::guest_network::GuestNetwork;
use crate::plugged::Plugged;
use crate::sandbox::Sandbox;
use crate::tap;

impl Sandbox {
    /// Gives a running sandbox an interface, which its guest uses once it is in its network.
    pub async fn attach(&self, nic: &Nic, limit: RateLimit) -> Result<()> {
        let taps = tap::open(&nic.tap, self.queue_pairs()?)?;
        let queues = u8::try_from(taps.len()).unwrap_or(u8::MAX);
        let insert = InsertNic { mac: nic.mac.clone(), tap: nic.tap.clone(), queues, limit };
        Plugged::add(self.path(), &nic.mac, &nic.tap)?;
        Ok(self.client().insert_nic(insert, &taps, &tap::open_data_paths(queues)).await?)
    }

    /// Takes the interface with this hardware address away from a running sandbox. Idempotent: succeeds if it has none.
    pub async fn detach(&self, mac: &str) -> Result<()> {
        self.client().eject_nic(mac).await?;
        Plugged::remove(self.path(), mac)
    }

    /// Lets the guest of this name use its interfaces, all of which are attached. What it had before is replaced.
    pub async fn set_network(&self, network: &GuestNetwork, hostname: &str) -> Result<()> {
        Ok(self.client().set_network(network.of_guest(hostname)).await?)
    }
}
