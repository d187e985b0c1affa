use std::path::Path;

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use oci_spec::runtime::LinuxResources;

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
    let change =
        ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
    manager.apply(&change).map_err(|e| failed(&e))
}
