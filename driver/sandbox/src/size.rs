use oci_spec::runtime::LinuxResources;
use shim_control::{SandboxPlan, Update};

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Most vCPUs of a sandbox.
pub const VCPUS_MAX: u8 = 32;
/// CPU shares of a CPU, as Docker and upstream count them.
const SHARES_OF_A_CPU: f32 = 1024.0;
/// The fewest shares that the OCI runtime specification knows.
const SHARES_MIN: u64 = 2;
/// Microseconds in which a quota is spent.
const CPU_PERIOD: u64 = 100_000;
const MEBIBYTE: u64 = 1 << 20;
/// Least memory with which a container's programs, and the runtime that starts them, get along, in MiB.
const MEMORY_MIN_MIB: u64 = 16;

/// What a container's number of CPUs means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CpuLimit {
    /// A weight beside other containers: one that is alone may use its virtual CPUs whole.
    #[default]
    Weight,
    /// A bound, which a short burst may exceed.
    Quota,
}

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
    pub(crate) fn update(
        self,
        container: &str,
        plan: &SandboxPlan,
        overhead_mib: u64,
        cpu_limit: CpuLimit,
    ) -> Result<Update> {
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
        let resources = self.resources_of_update(cpu_limit)?;
        Ok(Update { container: container.to_owned(), resources, vcpus, memory_mib })
    }

    /// The same as [`Self::resources`], of a container that is there.
    pub(crate) fn resources_of_update(self, cpu_limit: CpuLimit) -> Result<LinuxResources> {
        serde_json::from_value(self.resources(cpu_limit)).map_err(|e| Error::Spec(e.to_string()))
    }

    /// `linux.resources` of an OCI runtime specification.
    pub(crate) fn resources(self, cpu_limit: CpuLimit) -> Value {
        let shares = ((self.cpus * SHARES_OF_A_CPU) as u64).max(SHARES_MIN);
        let quota = match cpu_limit {
            // None at all is written as -1, so that an update takes one away.
            CpuLimit::Weight => -1,
            CpuLimit::Quota => (self.cpus * CPU_PERIOD as f32) as i64,
        };
        json!({
            "memory": { "limit": self.memory_mib.saturating_mul(MEBIBYTE) },
            "cpu": { "shares": shares, "quota": quota, "period": CPU_PERIOD },
        })
    }
}

/// Virtual CPUs that it takes to use so many.
pub fn vcpus(cpus: f32) -> u8 {
    cpus.ceil().clamp(1.0, f32::from(VCPUS_MAX)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_a_weight_or_a_bound() {
        let size = Size { cpus: 0.1, memory_mib: 64 };
        let cpu = |limit| size.resources(limit)["cpu"].clone();
        assert_eq!(cpu(CpuLimit::Weight), json!({ "shares": 102, "quota": -1, "period": CPU_PERIOD }));
        assert_eq!(cpu(CpuLimit::Quota), json!({ "shares": 102, "quota": 10_000, "period": CPU_PERIOD }));
        assert_eq!(Size { cpus: 0.0001, ..size }.resources(CpuLimit::Weight)["cpu"]["shares"], SHARES_MIN);
        assert_eq!((vcpus(0.1), vcpus(1.5), vcpus(100.0)), (1, 2, VCPUS_MAX));
    }
}
