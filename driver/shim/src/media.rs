//! What is in the slots of a sandbox's machine.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use agent_protocol::service::AgentServiceClient;
use shim_control::{DeviceTraffic, DiskSlot, Flow, InsertDisk, InsertNic, Network, RateLimit, SandboxPlan};
use vmm::{DiskConfig, Machine, NicConfig, TapQueue};

use crate::error::{Error, Result};
use crate::guest;

/// The slots, disks' first, and what is in each.
pub struct Media(Vec<(Slot, Option<Content>)>);

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    /// A disk's own name, an interface's hardware address.
    name: String,
    /// An interface's tap.
    tap: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Disk { number: usize, access: DiskSlot },
    Nic(u8),
}

impl Media {
    /// The empty slots that the plan has.
    pub fn of(plan: &SandboxPlan) -> Self {
        let disks = plan.disk_slots.iter().enumerate();
        let disks = disks.map(|(number, access)| Slot::Disk { number, access: *access });
        Self(disks.chain((0..plan.nic_slots).map(Slot::Nic)).map(|slot| (slot, None)).collect())
    }

    /// Puts a disk into a free slot, and says where the guest has it.
    pub fn insert_disk(&mut self, machine: &Machine, disk: InsertDisk, image: OwnedFd) -> Result<PathBuf> {
        let wanted = |slot| match slot {
            Slot::Disk { number, access } if access == disk.access => Some(number),
            _ => None,
        };
        let number = self.free(&disk.name, "a disk", wanted)?;
        let (file, serial) = (File::from(image), disk.name.clone());
        machine.insert_disk(number, DiskConfig { file, serial, limit: limit(disk.limit) })?;
        self.fill(Slot::Disk { number, access: disk.access }, Some(Content { name: disk.name, tap: None }));
        Ok(device(number))
    }

    /// Where the guest has a disk.
    pub fn find_disk(&self, name: &str) -> Result<PathBuf> {
        match self.find(name) {
            Some(Slot::Disk { number, .. }) => Ok(device(number)),
            _ => Err(Error::Slot(format!("{name} is in none"))),
        }
    }

    /// Takes a disk out.
    pub fn eject_disk(&mut self, machine: &Machine, name: &str) -> Result<()> {
        let Some(slot @ Slot::Disk { number, .. }) = self.find(name) else { return Ok(()) };
        machine.eject_disk(number)?;
        self.fill(slot, None);
        Ok(())
    }

    /// Puts an interface into a free slot, for the guest to be set up.
    pub fn insert_nic(&mut self, machine: &Machine, nic: InsertNic, files: Vec<OwnedFd>) -> Result<()> {
        let wanted = |slot| match slot {
            Slot::Nic(number) => Some(number),
            Slot::Disk { .. } => None,
        };
        let number = self.free(&nic.mac, "an interface", wanted)?;
        let queues = queues(files, nic.queues.into())?;
        machine.insert_nic(number.into(), NicConfig { queues, limit: limit(nic.limit) })?;
        self.fill(Slot::Nic(number), Some(Content { name: nic.mac, tap: Some(nic.tap) }));
        Ok(())
    }

    /// Lets the guest no longer use an interface, and takes it out.
    pub async fn eject_nic(
        &mut self,
        machine: &Machine,
        agent: &AgentServiceClient,
        mac: &str,
    ) -> Result<()> {
        let Some(slot @ Slot::Nic(number)) = self.find(mac) else { return Ok(()) };
        guest::take_down_nic(agent, number).await?;
        machine.eject_nic(number.into())?;
        self.fill(slot, None);
        Ok(())
    }

    /// Tells the guest what its interfaces have, where its packets go and how others are called.
    pub async fn set_network(&self, agent: &AgentServiceClient, network: &Network) -> Result<()> {
        for nic in &network.nics {
            match self.find(&nic.mac) {
                Some(Slot::Nic(number)) => guest::set_up_nic(agent, number, nic).await?,
                _ => return Err(Error::Slot(format!("{} is in none", nic.mac))),
            }
        }
        guest::set_network(agent, network).await
    }

    /// What went through the slots that something is in.
    pub fn traffic(&self, machine: &Machine) -> Result<Vec<DeviceTraffic>> {
        let full = self.0.iter().filter_map(|(slot, content)| Some((slot, content.clone()?)));
        full.map(|(slot, Content { name: device, tap })| {
            let (incoming, outgoing) = match slot {
                Slot::Disk { number, .. } => {
                    let traffic = machine.disk_traffic(*number)?;
                    (flow(traffic.incoming), flow(traffic.outgoing))
                }
                Slot::Nic(_) => Default::default(),
            };
            Ok(DeviceTraffic { device, tap, incoming, outgoing })
        })
        .collect()
    }

    /// The number of a free slot that is `wanted`, for `what` has a name that is in none yet.
    fn free<N>(&self, name: &str, what: &'static str, wanted: impl Fn(Slot) -> Option<N>) -> Result<N> {
        if self.find(name).is_some() {
            return Err(Error::Slot(format!("{name} is in one already")));
        }
        let mut free = self.0.iter().filter(|(_, content)| content.is_none());
        free.find_map(|(slot, _)| wanted(*slot))
            .ok_or_else(|| Error::Slot(format!("none is free for {what}")))
    }

    fn find(&self, name: &str) -> Option<Slot> {
        self.0
            .iter()
            .find(|(_, content)| content.as_ref().is_some_and(|content| content.name == name))
            .map(|(slot, _)| *slot)
    }

    fn fill(&mut self, slot: Slot, content: Option<Content>) {
        if let Some(entry) = self.0.iter_mut().find(|(other, _)| *other == slot) {
            entry.1 = content;
        }
    }
}

/// Linux names virtio disks in the order of their slots.
fn device(number: usize) -> PathBuf {
    let letter = ('a'..='z').nth(number).unwrap_or('z');
    PathBuf::from(format!("/dev/vd{letter}"))
}

/// The queues of a tap, the first `count` of the files, each with its data path, if there are more.
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

    fn wanted(slot: Slot) -> Option<usize> {
        match slot {
            Slot::Disk { number, access: DiskSlot::ReadWrite } => Some(number),
            _ => None,
        }
    }

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
        let disk = |number, access| Slot::Disk { number, access };
        let slots = [disk(0, DiskSlot::ReadOnly), disk(1, DiskSlot::ReadWrite), Slot::Nic(0)];
        let mut media = Media(slots.iter().map(|slot| (*slot, None)).collect());
        let number = media.free("a", "a disk", wanted).unwrap();
        media.fill(disk(number, DiskSlot::ReadWrite), Some(Content { name: "a".into(), tap: None }));
        let error = |name| media.free(name, "a disk", wanted).unwrap_err().to_string();
        assert!(error("a").contains("a is in one already"));
        assert!(error("b").contains("none is free for a disk"));
        assert_eq!(media.find_disk("a").unwrap(), PathBuf::from("/dev/vdb"));
        assert!(media.find_disk("b").unwrap_err().to_string().contains("b is in none"));
        let slot = media.find("a").unwrap();
        media.fill(slot, None);
        assert_eq!(media.free("a", "a disk", wanted).unwrap(), 1);
        assert_eq!(device(1), PathBuf::from("/dev/vdb"));
    }
}
