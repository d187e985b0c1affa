use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use shim_control::SandboxDir;
use tokio::sync::Semaphore;

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::host_options::HostOptions;
use crate::sandbox::Sandbox;
use crate::shims;
use crate::status::{SandboxStatus, Silent};
use crate::templates::Templates;
use crate::users::Users;

/// Guests that come up at once for each processor: while one waits for its disk another can run.
const TURNS_A_PROCESSOR: usize = 2;

/// All sandboxes of this host.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) options: HostOptions,
    pub(crate) templates: Templates,
    pub(crate) users: Users,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) silent: Silent,
    /// Turns to bring guests up: more at once than there are processors for would only make all slow. What runs in one's
    /// turn is ours, and no tenant's: nobody can keep it.
    pub(crate) turns: Arc<Semaphore>,
}

impl Host {
    /// Makes the folder if there is none; only root may look into it.
    pub fn new(options: HostOptions) -> Result<Self> {
        let folder = &options.folder;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Error::io("make", folder))?;
        let templates = Templates::open(&options.templates, options.template_bytes)?;
        let users = Users::open(&options.users, options.first_user)?;
        let cgroups = Cgroups::open(&options.cgroup)?;
        if cgroups.is_none() {
            tracing::warn!("this host has no cgroup v2: what sandboxes take is not limited");
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(processors * TURNS_A_PROCESSOR));
        Ok(Self { options, templates, users, cgroups, silent: Silent::default(), turns })
    }

    /// The sandbox `id`, whether it exists or not.
    pub fn sandbox(&self, id: &str) -> Sandbox {
        Sandbox::new(id, self.clone())
    }

    /// Identifiers of all sandboxes that have a folder.
    pub fn list(&self) -> Result<Vec<String>> {
        let folder = &self.options.folder;
        let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }

    /// What has become of each sandbox that has a folder, by what the shims have written. Nobody is asked.
    pub fn survey(&self) -> Result<BTreeMap<String, SandboxStatus>> {
        let running = Running::of(self);
        let all = self.list()?.into_iter().map(|id| {
            let folder = self.sandbox(&id).folder().clone();
            let status = SandboxStatus::written(folder.run().read_state(), running.has(&id, &folder));
            (id, status)
        });
        Ok(all.collect())
    }

    /// Brings shims into their control groups that were started and have not entered them yet: a service that was killed at
    /// that moment would not find them by their groups.
    pub fn gather_shims(&self) {
        let Some(cgroups) = &self.cgroups else { return };
        for (pid, folder) in shims::running(&self.options.shim) {
            if folder.parent() != Some(self.options.folder.as_path()) {
                continue;
            }
            let Some(id) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            if !cgroups.processes(id).contains(&pid)
                && let Err(e) = cgroups.admit(id, pid)
            {
                tracing::error!(sandbox = id, error = %e, "a shim is outside of its control group");
            }
        }
    }
}

/// The sandboxes whose shims run. Where there are no control groups the host's processes are looked at, once.
enum Running<'a> {
    Groups(&'a Cgroups),
    Processes(HashSet<PathBuf>),
}

impl<'a> Running<'a> {
    fn of(host: &'a Host) -> Self {
        match &host.cgroups {
            Some(cgroups) => Self::Groups(cgroups),
            None => Self::Processes(shims::running(&host.options.shim).map(|(_, folder)| folder).collect()),
        }
    }

    fn has(&self, id: &str, folder: &SandboxDir) -> bool {
        match self {
            Self::Groups(cgroups) => cgroups.is_populated(id),
            Self::Processes(folders) => folders.contains(folder.path()),
        }
    }
}
