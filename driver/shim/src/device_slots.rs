//! The device slots of a sandbox's machine, and the devices in them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use agent_protocol::service::AgentServiceClient;
use shim_control::{DeviceTraffic, DiskSlot, Flow, InsertDisk, InsertNic, Network, RateLimit, SandboxPlan};
use vmm::{BlockSlot, DiskConfig, MacAddress, Machine, NicConfig, NicSlot, TapQueue};

use crate::error::{Error, Result};
use crate::guest;

/// The slots of each kind, in the guest's order.
pub struct DeviceSlots<B = BlockSlot, N = NicSlot> {
    disks: Vec<DiskEntry<B>>,
    nics: Vec<NicEntry<N>>,
}

#[derive(Debug)]
struct DiskEntry<B> {
    slot: B,
    access: DiskSlot,
    /// The block device in the guest.
    device: PathBuf,
    /// Name of the disk in the slot.
    name: Option<String>,
}

#[derive(Debug)]
struct NicEntry<N> {
    slot: N,
    /// Hardware address of the interface in the slot, which identifies it.
    mac: Option<String>,
}

impl DeviceSlots {
    /// The empty slots of a machine that was built from `plan`.
    pub fn new(plan: &SandboxPlan, machine: &Machine) -> Self {
        let disks = plan.disk_slots.iter().copied().zip(machine.disk_slots().iter().cloned());
        Self::empty(disks, machine.nic_slots().iter().cloned())
    }

    /// Puts a disk into a free slot, and returns its device in the guest.
    pub fn insert_disk(&mut self, disk: InsertDisk, image: OwnedFd) -> Result<PathBuf> {
        let entry = self.free_disk(&disk.name, disk.access)?;
        let (file, serial) = (File::from(image), disk.name.clone());
        entry.slot.insert(DiskConfig { file, serial, limit: limit(disk.limit) })?;
        entry.name = Some(disk.name);
        Ok(entry.device.clone())
    }

    /// Takes a disk out. Idempotent: succeeds if it is in no slot.
    pub fn eject_disk(&mut self, name: &str) -> Result<()> {
        let Some(entry) = self.disks.iter_mut().find(|entry| entry.holds(name)) else { return Ok(()) };
        entry.slot.eject()?;
        entry.name = None;
        Ok(())
    }

    /// Connects an interface to a free slot. [`Self::set_network`] then sets it up in the guest.
    pub fn insert_nic(&mut self, nic: InsertNic, files: Vec<OwnedFd>) -> Result<()> {
        let entry = self.free_nic(&nic.mac)?;
        let queues = queues(files, nic.queues.into())?;
        entry.slot.insert(NicConfig { queues, limit: limit(nic.limit) })?;
        tracing::info!(mac = nic.mac, tap = nic.tap, "an interface is plugged");
        entry.mac = Some(nic.mac);
        Ok(())
    }

    /// The permanent address of the slot that an interface is in.
    pub fn nic_address(&self, mac: &str) -> Option<MacAddress> {
        self.nics.iter().find(|entry| entry.holds(mac)).map(|entry| entry.slot.address())
    }

    /// Disconnects an interface. Idempotent: succeeds if it is in no slot.
    pub fn eject_nic(&mut self, mac: &str) -> Result<()> {
        let Some(entry) = self.nics.iter_mut().find(|entry| entry.holds(mac)) else { return Ok(()) };
        entry.slot.eject()?;
        entry.mac = None;
        Ok(())
    }

    /// Sets up the guest's interfaces, routes, name servers and hosts.
    pub async fn set_network(&self, agent: &AgentServiceClient, network: &Network) -> Result<()> {
        for nic in &network.nics {
            let entry = self.nics.iter().find(|entry| entry.holds(&nic.mac));
            let entry = entry.ok_or_else(|| Error::Slot(format!("{} is in none", nic.mac)))?;
            guest::set_up_nic(agent, entry.slot.address(), nic).await?;
        }
        guest::set_network(agent, network).await
    }

    /// The traffic of the devices in the slots, disks first. That of an interface is counted by the host.
    pub fn traffic(&self) -> Vec<DeviceTraffic> {
        let disks = self.disks.iter().filter_map(|entry| {
            let (device, traffic) = (entry.name.clone()?, entry.slot.traffic());
            let (incoming, outgoing) = (flow(traffic.incoming), flow(traffic.outgoing));
            Some(DeviceTraffic { device, incoming, outgoing })
        });
        let nics = self.nics.iter().filter_map(|entry| {
            let (incoming, outgoing) = (Flow::default(), Flow::default());
            Some(DeviceTraffic { device: entry.mac.clone()?, incoming, outgoing })
        });
        disks.chain(nics).collect()
    }
}

impl<B, N> DeviceSlots<B, N> {
    fn empty(disks: impl Iterator<Item = (DiskSlot, B)>, nics: impl Iterator<Item = N>) -> Self {
        let disk = |(number, (access, slot))| DiskEntry { slot, access, device: device(number), name: None };
        let nic = |slot| NicEntry { slot, mac: None };
        Self { disks: disks.enumerate().map(disk).collect(), nics: nics.map(nic).collect() }
    }

    /// The device of a disk in the guest.
    pub fn find_disk(&self, name: &str) -> Result<PathBuf> {
        let entry = self.disks.iter().find(|entry| entry.holds(name));
        entry.map(|entry| entry.device.clone()).ok_or_else(|| Error::Slot(format!("{name} is in none")))
    }

    /// A free slot for a disk with this name, which must be in no slot yet.
    fn free_disk(&mut self, name: &str, access: DiskSlot) -> Result<&mut DiskEntry<B>> {
        self.check_is_new(name)?;
        let free = self.disks.iter_mut().find(|entry| entry.name.is_none() && entry.access == access);
        free.ok_or_else(|| Error::Slot("none is free for a disk".into()))
    }

    /// A free slot for an interface with this address, which must be in no slot yet.
    fn free_nic(&mut self, mac: &str) -> Result<&mut NicEntry<N>> {
        self.check_is_new(mac)?;
        let free = self.nics.iter_mut().find(|entry| entry.mac.is_none());
        free.ok_or_else(|| Error::Slot("none is free for an interface".into()))
    }

    fn check_is_new(&self, name: &str) -> Result<()> {
        let is_in_one = self.disks.iter().any(|entry| entry.holds(name))
            || self.nics.iter().any(|entry| entry.holds(name));
        if is_in_one { Err(Error::Slot(format!("{name} is in one already"))) } else { Ok(()) }
    }
}

impl<B> DiskEntry<B> {
    fn holds(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }
}

impl<N> NicEntry<N> {
    fn holds(&self, mac: &str) -> bool {
        self.mac.as_deref() == Some(mac)
    }
}

/// Linux names virtio disks in the order of their slots: `vda` to `vdz`, then `vdaa` to `vdzz`.
fn device(number: usize) -> PathBuf {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    let last = letter(number);
    match number / 26 {
        0 => PathBuf::from(format!("/dev/vd{last}")),
        round => PathBuf::from(format!("/dev/vd{}{last}", letter(round - 1))),
    }
}

/// The queues of a tap, from its `count` files; a `/dev/vhost-net` for each may follow them.
fn queues(files: Vec<OwnedFd>, count: usize) -> Result<Vec<TapQueue>> {
    let mut taps: Vec<_> = files.into_iter().map(File::from).collect();
    if count == 0 || taps.len() < count {
        return Err(Error::NoFile);
    }
    let mut data_paths = taps.split_off(count).into_iter();
    Ok(taps.into_iter().map(|tap| TapQueue { tap, vhost: data_paths.next() }).collect())
}

fn flow(flow: vmm::Flow) -> Flow {
    Flow { bytes: flow.bytes, operations: flow.operations }
}

fn limit(bound: RateLimit) -> vmm::RateLimit {
    let RateLimit { bytes, burst_bytes, operations, burst_operations } = bound;
    vmm::RateLimit { bytes, burst_bytes, operations, burst_operations }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_of_a_tap_has_its_data_path() {
        let files =
            |count| (0..count).map(|_| tempfile::tempfile().unwrap().into()).collect::<Vec<OwnedFd>>();
        let paths = |count, taps| {
            let queues = queues(files(count), taps)?;
            Ok::<_, Error>(queues.iter().map(|queue| queue.vhost.is_some()).collect::<Vec<_>>())
        };
        assert_eq!(paths(4, 2).unwrap(), [true, true]);
        assert_eq!(paths(2, 2).unwrap(), [false, false]);
        for (count, taps) in [(0, 1), (1, 2), (1, 0)] {
            assert!(paths(count, taps).is_err(), "{count} files for {taps} queues");
        }
    }

    #[test]
    fn a_slot_is_taken_once_and_a_name_is_in_one() {
        let disks = [(DiskSlot::ReadOnly, ()), (DiskSlot::ReadWrite, ())];
        let mut slots = DeviceSlots::empty(disks.into_iter(), [()].into_iter());
        slots.free_disk("a", DiskSlot::ReadWrite).unwrap().name = Some("a".into());
        let mut error = |name| slots.free_disk(name, DiskSlot::ReadWrite).unwrap_err().to_string();
        assert!(error("a").contains("a is in one already"));
        assert!(error("b").contains("none is free for a disk"));
        assert_eq!(slots.find_disk("a").unwrap(), PathBuf::from("/dev/vdb"));
        assert!(slots.find_disk("b").unwrap_err().to_string().contains("b is in none"));
        slots.disks[1].name = None;
        assert_eq!(slots.free_disk("a", DiskSlot::ReadWrite).unwrap().device, device(1));
        let names = [(1, "/dev/vdb"), (25, "/dev/vdz"), (26, "/dev/vdaa"), (52, "/dev/vdba")];
        names.iter().for_each(|(number, name)| assert_eq!(device(*number), PathBuf::from(name)));
    }
}
