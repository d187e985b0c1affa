//! The last step of a process that `libcontainer` has made: its seccomp filter, and the program.

use caps::{CapSet, Capability};
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::{Capability as SpecCapability, Process, Spec};

use super::filter::Filter;

/// What a process still has to give up before its program runs.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    filter: Option<Filter>,
    /// Whether it has `CAP_SYS_ADMIN` only to apply the filter.
    is_raised: bool,
}

impl Confinement {
    /// Prepares a process for a filter: one that may gain privileges needs `CAP_SYS_ADMIN` to be given a filter.
    pub fn prepare(process: &mut Process, filter: Option<Filter>) -> Self {
        let needs_it = filter.is_some() && !process.no_new_privileges().unwrap_or(false);
        let is_raised = needs_it && raise(process);
        Self { filter, is_raised }
    }
}

/// Adds the capability to what a process has, but not to what its programs may have. False if it had it.
fn raise(process: &mut Process) -> bool {
    let Some(mut own) = process.capabilities().clone() else { return false };
    let mut effective = own.effective().clone().unwrap_or_default();
    let mut permitted = own.permitted().clone().unwrap_or_default();
    let is_new = effective.insert(SpecCapability::SysAdmin) | permitted.insert(SpecCapability::SysAdmin);
    own.set_effective(Some(effective)).set_permitted(Some(permitted));
    process.set_capabilities(Some(own));
    is_new
}

impl Executor for Confinement {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Some(filter) = &self.filter {
            filter
                .apply()
                .map_err(|e| ExecutorError::Other(format!("the seccomp filter is not applied: {e}")))?;
        }
        if self.is_raised {
            for set in [CapSet::Effective, CapSet::Permitted] {
                caps::drop(None, set, Capability::CAP_SYS_ADMIN)
                    .map_err(|e| ExecutorError::Other(format!("CAP_SYS_ADMIN is not given up: {e}")))?;
            }
        }
        DefaultExecutor {}.exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        DefaultExecutor {}.validate(spec)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_process_is_raised_only_for_its_filter() {
        let filter = || {
            let any = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
            Some(Filter::compile(&serde_json::from_value(any).unwrap()).unwrap())
        };
        let process = |own: &[&str], no_new: bool| -> Process {
            let capabilities = json!({ "bounding": own, "effective": own, "permitted": own });
            let mut value =
                json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "capabilities": capabilities });
            if no_new {
                value["noNewPrivileges"] = true.into();
            }
            serde_json::from_value(value).unwrap()
        };
        let raised = |mut process: Process, filter| {
            let is_raised = Confinement::prepare(&mut process, filter).is_raised;
            let own = process.capabilities().clone().unwrap();
            let has = |set: &Option<oci_spec::runtime::Capabilities>| {
                set.clone().unwrap_or_default().contains(&SpecCapability::SysAdmin)
            };
            (is_raised, has(own.effective()), has(own.bounding()))
        };
        assert_eq!(raised(process(&["CAP_KILL"], false), filter()), (true, true, false));
        assert_eq!(raised(process(&["CAP_KILL"], true), filter()), (false, false, false));
        assert_eq!(raised(process(&["CAP_KILL"], false), None), (false, false, false));
        assert_eq!(raised(process(&["CAP_SYS_ADMIN"], false), filter()), (false, true, true));
    }
}
