//! All sandboxes of a host at once.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::host::Host;
use crate::shims;
use crate::status::SandboxStatus;

impl Host {
    /// What has become of each sandbox that has a folder, by what the shims have written. Nobody is asked.
    pub fn survey(&self) -> Result<BTreeMap<String, SandboxStatus>> {
        let all = self.list()?.into_iter().map(|id| {
            let sandbox = self.sandbox(&id);
            let state = sandbox.folder().run().read_state();
            (id, SandboxStatus::written(state, sandbox.shim_runs()))
        });
        Ok(all.collect())
    }

    /// Brings shims into their control groups that were started and have not entered them yet: a service that was killed at
    /// that moment would not find them by their groups.
    pub fn gather_shims(&self) {
        for (pid, folder) in shims::running(&self.options.shim) {
            if folder.parent() != Some(self.options.folder.as_path()) {
                continue;
            }
            let Some(id) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            let group = self.sandbox(id).group();
            if !self.cgroups.processes(&group).contains(&pid)
                && let Err(e) = self.cgroups.admit(&group, pid)
            {
                tracing::error!(sandbox = id, error = %e, "a shim is outside of its control group");
            }
        }
    }
}
