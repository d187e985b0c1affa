use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::host_options::HostOptions;
use crate::seccomp::SeccompRules;
use crate::status::Silent;
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
    pub(crate) cgroups: Cgroups,
    pub(crate) silent: Silent,
    pub(crate) seccomp: Arc<SeccompRules>,
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
        let seccomp = Arc::new(SeccompRules::read(&options.seccomp)?);
        let cgroups = Cgroups::open(&options.cgroup)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(processors * TURNS_A_PROCESSOR));
        Ok(Self { options, templates, users, cgroups, silent: Silent::default(), seccomp, turns })
    }

    /// Identifiers of all sandboxes that have a folder.
    pub fn list(&self) -> Result<Vec<String>> {
        let folder = &self.options.folder;
        let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }
}
