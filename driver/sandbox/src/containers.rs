//! What is in a sandbox: its containers and their disks.

use std::fs::File;
use std::path::{Path, PathBuf};

use shim_control::{
    Connection, ContainerExit, ContainerProcess, DeviceTraffic, DiskSlot, Exec, ExecResult, InsertDisk,
    Interact, RateLimit, Resize, Signal, SignalTarget, Stats, Update, WindowSize,
};

use crate::error::{Error, Result};
use crate::guest_paths::ContainerDisks;
use crate::logs::{self, LogQuery};
use crate::oci::{Bounds, ContainerSpec};
use crate::plugged::Plugged;
use crate::sandbox::Sandbox;
use crate::size::{CpuLimit, Size};
use crate::status::{SandboxStatus, failure};
use crate::{disk, file_size, files};

impl Sandbox {
    /// Makes the disk on which a container will write; it stays until the sandbox, or the container, is gone.
    pub async fn make_disk(&self, container: &str, gibibytes: u64) -> Result<()> {
        disk::create(&self.writable(container), gibibytes).await
    }

    /// Makes a container on its image and its disk, and lets it run. If that fails, nothing of it is left in the guest.
    pub async fn run(&self, container: &ContainerSpec) -> Result<()> {
        if self.client().state().await?.containers.contains_key(&container.id) {
            return Err(Error::Exists(container.id.clone()));
        }
        let ran = self.try_to_run(container).await;
        if ran.is_err()
            && let Err(e) = self.end_container(&container.id).await
        {
            tracing::warn!(container = container.id, error = %e, "something of it is left in the guest");
        }
        ran
    }

    async fn try_to_run(&self, container: &ContainerSpec) -> Result<()> {
        self.make_container(container).await?;
        self.start_container(&container.id).await
    }

    /// Lets the process of a container run that was made.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        Ok(self.client().start_container(id).await?)
    }

    /// Makes a container whose process waits.
    pub async fn make_container(&self, container: &ContainerSpec) -> Result<()> {
        let ContainerSpec { id, image, disk_limit: limit, .. } = container;
        let mut volumes = Vec::new();
        for mount in &container.mounts {
            volumes.push(self.client().find_disk(&mount.volume).await?);
        }
        let disks = ContainerDisks {
            volumes,
            image: self.insert_disk(image_name(id), image, DiskSlot::ReadOnly, *limit).await?,
            writable: self
                .insert_disk(writable_name(id), &self.writable(id), DiskSlot::ReadWrite, *limit)
                .await?,
        };
        self.client().create_container(container.to_request(&disks, &self.bounds()?)?).await?;
        self.bound(container).await
    }

    fn bounds(&self) -> Result<Bounds<'_>> {
        let seccomp = self.plan()?.has_filters.then(|| self.seccomp());
        Ok(Bounds { seccomp, pids_max: self.options().pids_max })
    }

    /// Bounds the CPUs of a container that is made, where they are bounded. What made it was not to be held up.
    async fn bound(&self, container: &ContainerSpec) -> Result<()> {
        let is_given = container.oci.pointer("/linux/resources/cpu").is_some();
        if self.options().cpu_limit == CpuLimit::Weight || is_given {
            return Ok(());
        }
        let plan = self.plan()?;
        let size = Size { cpus: container.cpus, memory_mib: container.memory_mib };
        let resources = size.resources_of_update(CpuLimit::Quota)?;
        let (vcpus, memory_mib) = (plan.vcpus, plan.memory_mib);
        let update = Update { container: container.id.clone(), resources, vcpus, memory_mib };
        Ok(self.client().update(update).await?)
    }

    /// Kills what is left of a container, and removes what it wrote, its log included. The sandbox goes on.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.end_container(id).await?;
        files::remove(&self.writable(id))?;
        logs::remove(&self.folder().run().log(id), self.options().log_limits())
    }

    /// Kills what is left of a container, and takes it out of the guest. What it wrote stays. Idempotent:
    /// succeeds if it is not there.
    pub async fn end_container(&self, id: &str) -> Result<()> {
        let client = self.client();
        client.remove_container(id).await?;
        client.eject_disk(&image_name(id)).await?;
        Ok(client.eject_disk(&writable_name(id)).await?)
    }

    pub(crate) async fn insert_disk(
        &self,
        name: String,
        path: &Path,
        access: DiskSlot,
        limit: RateLimit,
    ) -> Result<PathBuf> {
        let image = File::options().read(true).write(access == DiskSlot::ReadWrite).open(path);
        let image = image.map_err(Error::io("open disk", path))?;
        if access == DiskSlot::ReadWrite
            && let Some(shim) = self.shim_pid()
        {
            file_size::allow_disk(shim, &image).map_err(Error::io("bound the writes to", path))?;
        }
        Ok(self.client().insert_disk(InsertDisk { name, access, limit }, &image).await?)
    }

    /// Lets a sandbox's only container use `size` instead of what it had. If that fails, it keeps what it had.
    pub async fn update(&self, container: &str, had: Size, size: Size) -> Result<()> {
        let options = self.options();
        let update = size.update(container, &self.plan()?, options.memory_overhead_mib, options.cpu_limit)?;
        self.limit_running(had.larger(size))?;
        let updated = self.client().update(update).await;
        self.limit_running(if updated.is_ok() { size } else { had })?;
        Ok(updated?)
    }

    /// Waits for a container's end.
    pub async fn wait(&self, container: &str) -> Result<ContainerExit> {
        match self.client().wait_container(container).await {
            Ok(exit) => Ok(exit),
            Err(e) => match self.status().await {
                SandboxStatus::Over(state) => state
                    .containers
                    .get(container)
                    .cloned()
                    .flatten()
                    .ok_or_else(|| Error::Start(failure(&state).unwrap_or_else(|| e.to_string()))),
                _ => Err(e.into()),
            },
        }
    }

    /// Sends a signal to a container's first process.
    pub async fn signal(&self, container: &str, number: u32) -> Result<()> {
        let signal = Signal { container: container.to_owned(), number, target: SignalTarget::First };
        Ok(self.client().signal(signal).await?)
    }

    /// Runs a process in a container to its end.
    pub async fn exec(&self, exec: Exec) -> Result<ExecResult> {
        Ok(self.client().exec(exec).await?)
    }

    /// Connects to a container's first process: what it writes from now on can be read, what is written it reads.
    pub async fn attach_to(&self, container: &str) -> Result<Connection> {
        Ok(self.client().attach(container).await?)
    }

    /// Runs a process in a container and connects to it.
    pub async fn interact(&self, interact: Interact) -> Result<Connection> {
        Ok(self.client().interact(interact).await?)
    }

    /// Tells the terminal of a container's process its size; without a name, that of its first process.
    pub async fn resize_terminal(
        &self,
        container: &str,
        exec: Option<String>,
        size: WindowSize,
    ) -> Result<()> {
        Ok(self.client().resize(Resize { container: container.to_owned(), exec, size }).await?)
    }

    /// What a container uses.
    pub async fn stats(&self, container: &str) -> Result<Stats> {
        Ok(self.client().stats(container).await?)
    }

    /// The processes of a container.
    pub async fn processes(&self, container: &str) -> Result<Vec<ContainerProcess>> {
        Ok(self.client().processes(container).await?)
    }

    /// What went through the sandbox's disks and interfaces.
    pub async fn traffic(&self) -> Result<Vec<DeviceTraffic>> {
        let mut all = self.client().traffic().await?;
        let taps = Plugged::read(self.path())?;
        all.iter_mut().for_each(|device| taps.count(device));
        Ok(all)
    }

    /// A container's log.
    pub fn logs(&self, container: &str, query: &LogQuery) -> Result<String> {
        logs::read(&self.folder().run().log(container), self.options().log_limits(), query)
    }

    fn writable(&self, container: &str) -> PathBuf {
        self.path().join(format!("{}.ext4", writable_name(container)))
    }
}

fn image_name(container: &str) -> String {
    format!("image-{container}")
}

fn writable_name(container: &str) -> String {
    format!("writable-{container}")
}
