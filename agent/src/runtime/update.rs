use std::path::Path;

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::CGROUP_ROOT;
use crate::error::{Error, Result};

/// Lets a container use no more than `resources` from now on. Its group is at `cgroup`.
pub fn update(container: &str, cgroup: &Path, resources: &LinuxResources) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::Runtime(format!("change what {container} may use: {e}"));
    let relative = cgroup.strip_prefix(CGROUP_ROOT).unwrap_or(cgroup);
    let config = CgroupConfig {
        cgroup_path: Path::new("/").join(relative),
        systemd_cgroup: false,
        container_name: container.to_owned(),
    };
    let manager = create_cgroup_manager(config).map_err(|e| failed(&e))?;
    let apply = |resources: &LinuxResources| {
        let change =
            ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
        manager.apply(&change).map_err(|e| failed(&e))
    };
    // A burst must not be larger than the quota at any time.
    apply(&burst_of(0))?;
    apply(resources)?;
    let quota =
        resources.cpu().as_ref().and_then(LinuxCpu::quota).and_then(|quota| u64::try_from(quota).ok());
    quota.map_or(Ok(()), |quota| apply(&burst_of(quota)))
}

/// What a container has left of its quota it may use later: `microseconds` at most.
fn burst_of(microseconds: u64) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_burst(Some(microseconds));
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_cpu(Some(cpu));
    resources
}
