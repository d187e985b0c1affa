use shim_control::{SandboxPlan, Update};

use crate::error::{Error, Result};
use crate::launch::{VCPUS_MAX, vcpus};
use crate::oci::resources;

/// Least memory with which a container's programs, and the runtime that starts them, get along, in MiB.
const MEMORY_MIN_MIB: u64 = 16;

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// CPUs.
    pub cpus: f32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

impl Size {
    /// Says what no sandbox can have.
    pub(crate) fn validate(self) -> Result<()> {
        if self.memory_mib < MEMORY_MIN_MIB {
            return Err(Error::Memory { asked: self.memory_mib, least: MEMORY_MIN_MIB });
        }
        if self.cpus <= 0.0 || !self.cpus.is_finite() || self.cpus > f32::from(VCPUS_MAX) {
            return Err(Error::Cpus { asked: self.cpus, most: VCPUS_MAX });
        }
        Ok(())
    }

    /// More of each.
    pub(crate) fn larger(self, other: Self) -> Self {
        Self { cpus: self.cpus.max(other.cpus), memory_mib: self.memory_mib.max(other.memory_mib) }
    }

    /// What the shim of `plan` is to do so that `container` has this much.
    pub(crate) fn update(self, container: &str, plan: &SandboxPlan, overhead_mib: u64) -> Result<Update> {
        self.validate()?;
        let (vcpus, memory_mib) = (vcpus(self.cpus), self.memory_mib.saturating_add(overhead_mib));
        if vcpus > plan.vcpus_max {
            return Err(Error::Growth(format!(
                "{} CPUs, the sandbox was started with room for {}",
                self.cpus, plan.vcpus_max
            )));
        }
        if memory_mib > plan.memory_max_mib {
            return Err(Error::Growth(format!(
                "{} MiB of memory, the sandbox was started with room for {}",
                self.memory_mib,
                plan.memory_max_mib.saturating_sub(overhead_mib)
            )));
        }
        Ok(Update { container: container.to_owned(), resources: resources(self)?, vcpus, memory_mib })
    }
}
