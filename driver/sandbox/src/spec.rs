//! A sandbox as its caller wants it, and the plan that its shim gets of that.

use std::path::PathBuf;

use shim_control::{DiskSlot, Origin, RateLimit, SandboxPlan, queue_pairs};

use crate::error::{Error, Result};
use crate::guest_network::GuestNetwork;
use crate::host_options::HostOptions;
use crate::pinning::CpuPinning;
use crate::size::{Size, VCPUS_MAX, vcpus};

/// Most containers of a sandbox.
const CONTAINERS_MAX: u8 = 16;
/// Slots for disks of each container: its image, and what it writes.
const CONTAINER_SLOTS: [DiskSlot; 2] = [DiskSlot::ReadOnly, DiskSlot::ReadWrite];
/// Most volumes of a sandbox.
pub const VOLUMES_MAX: usize = 16;
/// Slots for volumes that each sandbox has, so that those of few volumes and of none share a template. A sandbox of more has
/// [`VOLUMES_MAX`].
const VOLUME_SLOTS: usize = 3;
/// Slots for interfaces that each sandbox has.
const NIC_SLOTS: u8 = 4;

/// A sandbox as its caller wants it.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// CPUs.
    pub cpus: f32,
    /// Memory of its containers in MiB; what the guest itself needs is added.
    pub memory_mib: u64,
    /// The guest's host name.
    pub hostname: String,
    /// Containers that it may have at one time.
    pub containers: u8,
    /// The network.
    pub network: GuestNetwork,
    /// Disks that its containers may mount.
    pub volumes: Vec<VolumeDisk>,
    /// The container whose end ends the sandbox.
    pub ends_with: Option<String>,
    /// The group of sandboxes with which it may share a template; none boots and shares nothing.
    pub template_group: Option<String>,
    /// What it may move through each interface, in each direction.
    pub nic_limit: RateLimit,
    /// CPUs of the host that it has to itself, one for each vCPU; it cannot come to have more.
    pub pinning: Option<CpuPinning>,
}

/// A disk of a sandbox's that is no container's own.
#[derive(Debug, Clone)]
pub struct VolumeDisk {
    /// What it is called in the sandbox.
    pub name: String,
    /// The block device or raw file of this host.
    pub path: PathBuf,
    /// What may be moved.
    pub limit: RateLimit,
}

/// What a sandbox has of its host for itself.
pub(crate) struct HostResources {
    /// Its user.
    pub user: u32,
    /// Its control group.
    pub cgroup: PathBuf,
}

impl SandboxSpec {
    /// Says what cannot be had, before anything is made.
    pub fn validate(&self) -> Result<()> {
        Size { cpus: self.cpus, memory_mib: self.memory_mib }.validate()?;
        if self.containers > CONTAINERS_MAX {
            return Err(Error::Containers { asked: self.containers, most: CONTAINERS_MAX });
        }
        if self.volumes.len() > VOLUMES_MAX {
            return Err(Error::Volumes { asked: self.volumes.len(), most: VOLUMES_MAX });
        }
        if self.network.nics.len() > usize::from(NIC_SLOTS) {
            return Err(Error::Nics { asked: self.network.nics.len(), most: NIC_SLOTS });
        }
        Ok(())
    }

    /// Pairs of queues that each of its interfaces will have.
    pub fn queue_pairs(&self) -> u8 {
        queue_pairs(vcpus(self.cpus))
    }

    fn volume_slots(&self) -> usize {
        if self.volumes.len() > VOLUME_SLOTS { VOLUMES_MAX } else { VOLUME_SLOTS }
    }

    /// The same sandbox without a network.
    pub fn without_network(self) -> Self {
        Self { network: GuestNetwork::default(), ..self }
    }

    pub(crate) fn plan(&self, id: &str, options: &HostOptions, host: HostResources) -> SandboxPlan {
        let memory_mib = self.memory_mib + options.memory_overhead_mib;
        let vcpus_max = if self.pinning.is_some() { 1 } else { options.vcpus_max.min(VCPUS_MAX) };
        SandboxPlan {
            id: id.to_owned(),
            vcpus: vcpus(self.cpus),
            vcpus_max: vcpus(self.cpus).max(vcpus_max),
            memory_mib,
            memory_max_mib: memory_mib.max(options.memory_max_mib),
            kernel: options.kernel.clone(),
            image: options.image.clone(),
            hostname: self.hostname.clone(),
            user: host.user,
            cgroup: Some(host.cgroup),
            origin: Origin::Boot,
            disk_slots: [
                CONTAINER_SLOTS.repeat(self.containers.into()),
                vec![DiskSlot::ReadWrite; self.volume_slots()],
            ]
            .concat(),
            nic_slots: NIC_SLOTS,
            ends_with: self.ends_with.clone(),
            log: options.log_limits(),
            has_filters: true,
        }
    }
}
