//! `container_create`: image, ports, disk, and, where asked, the first start.

use std::collections::BTreeSet;
use std::sync::Arc;

use image::Image;
use model::{Changes, Container, RequestedNetwork, Status, TaskState, Usage};
use oslo::RequestContext;
use serde_json::Value;

use super::Manager;
use super::dispatch::Arguments;
use super::health::HealthCheck;
use super::restart::RestartPolicy;
use super::volumes::{files_of, mounts_of};
use crate::error::{Error, Result};
use crate::exposed_ports::{self, ExposedPort};
use crate::networking::{self, Attachment};
use crate::pinning;
use crate::record::{ContainerRequest, Record};
use crate::resources;

const RUNTIME: &str = "kata";
const HOSTNAME_MAX: usize = 63;

impl Manager {
    pub(super) async fn container_create(
        self: &Arc<Self>,
        context: &RequestContext,
        mut container: Container,
        arguments: &Arguments,
    ) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let networks: Vec<RequestedNetwork> = arguments.get("requested_networks")?;
        let run: bool = arguments.get("run")?;
        tracing::info!("creating");
        let result = self.create_and_run(context, &mut container, &networks, arguments, run).await;
        if let Err(e) = &result {
            self.undo_create(&mut container, e).await;
        }
        self.finish(context.request(), &container, "create", &result).await;
        result
    }

    async fn create_and_run(
        self: &Arc<Self>,
        context: &RequestContext,
        container: &mut Container,
        networks: &[RequestedNetwork],
        arguments: &Arguments,
        run: bool,
    ) -> Result<()> {
        let seen = container.clone();
        let create = async {
            self.claim(container).await?;
            let began = self.begin(container, TaskState::ContainerCreating).await?;
            let created = self.create(context, container, networks, arguments).await;
            self.end(container, began).await;
            created
        };
        self.event(context.request(), &seen, "_do_container_create", create).await?;
        if run {
            self.start_locked(context.request(), container).await?;
        }
        Ok(())
    }

    /// Makes a container, or a capsule, this host's, if it has room for it. From then on it is counted.
    pub(super) async fn claim(&self, container: &mut Container) -> Result<()> {
        let _turn = self.claims.lock().await;
        let (uuid, nothing) = (container.uuid, Usage::default());
        resources::claim(&self.database, &self.options, uuid, nothing, container.usage()).await?;
        if pinning::is_dedicated(container) {
            self.choose_cpus(container)?;
        }
        let host = Changes { host: Some(Some(self.hostname().to_owned())), ..Changes::default() };
        self.save(container, host).await
    }

    /// Gives a container CPUs of its own, unless it has them already.
    pub(super) fn choose_cpus(&self, container: &Container) -> Result<()> {
        if !self.options.compute.enable_cpu_pinning {
            let reason = "CPU policy dedicated: [compute] enable_cpu_pinning is not set on this host";
            return Err(Error::Invalid(reason.into()));
        }
        if self.pins.get(container.uuid).is_none() {
            let chosen = pinning::choose(&self.pins.topology(&self.options)?, container)?;
            let memory = u64::try_from(container.usage().memory).unwrap_or(0);
            self.pins.insert(container.uuid, chosen, memory);
        }
        Ok(())
    }

    async fn create(
        &self,
        context: &RequestContext,
        container: &mut Container,
        networks: &[RequestedNetwork],
        arguments: &Arguments,
    ) -> Result<()> {
        refuse_what_is_not_built(container)?;
        let volumes = self.take_volumes(container.uuid, arguments).await?;
        let (files, mounts) = (files_of(&volumes)?, mounts_of(&volumes)?);
        if container.disk.unwrap_or(0) == 0 {
            let disk = self.options.default.default_disk;
            self.save(container, Changes { disk: Some(disk), ..Changes::default() }).await?;
        }
        let image = self.container_image(context, container).await?;
        tracing::info!("the image is ready");
        let mut record = self.new_record(container, &image)?;
        record.sandbox_spec(&self.options.kata).validate()?;
        record.files = files;
        record.container.mounts = mounts;
        self.attach_volumes(container.uuid, &volumes).await?;
        let exposed = exposed_ports::of(container)?;
        self.expose(container, &exposed).await?;
        record.attachments = networking::attach(&self.neutron, container, self.hostname(), networks).await?;
        tracing::info!("the ports are ready");
        let made = self.make_sandbox(container, &record).await;
        if made.is_err() {
            networking::detach(&self.neutron, &record.attachments).await;
        }
        made?;
        let changes = created_changes(container, &image, &record.attachments, &record.container.hostname);
        self.save(container, changes).await
    }

    /// Gives a container, or a capsule, a security group of its own for the ports that it exposes.
    pub(super) async fn expose(
        &self,
        container: &mut Container,
        ports: &BTreeSet<ExposedPort>,
    ) -> Result<()> {
        let Some(group) = exposed_ports::open(&self.neutron, container, ports).await? else { return Ok(()) };
        let mut groups =
            container.security_groups.as_ref().map(|groups| groups.0.clone()).unwrap_or_default();
        groups.push(group);
        self.save(container, Changes { security_groups: Some(groups), ..Changes::default() }).await
    }

    /// Makes what this host keeps of a container.
    pub(super) async fn make_sandbox(&self, container: &Container, record: &Record) -> Result<()> {
        let sandbox = self.sandbox(container.uuid);
        sandbox.create()?;
        let gibibytes = u64::try_from(container.disk.unwrap_or(1)).unwrap_or(1);
        sandbox.make_disk(&record.container.id, gibibytes).await?;
        record.write(sandbox.path())
    }

    /// A create that was interrupted counts as failed.
    pub async fn abandon_create(&self, container: &mut Container) {
        let error = Error::Conflict("Container failed to create correctly".into());
        self.undo_create(container, &error).await;
    }

    /// A create that failed leaves nothing on this host, in Neutron and in Placement.
    pub(super) async fn undo_create(&self, container: &mut Container, error: &Error) {
        if let Err(e) = self.clean_up(container.uuid).await {
            tracing::error!("something is left behind: {e}");
        }
        if let Err(e) = exposed_ports::close(&self.neutron, container.uuid).await {
            tracing::error!("the security group is left behind: {e}");
        }
        if let Err(e) = self.placement.delete_allocations(&container.uuid.to_string()).await {
            tracing::error!("the allocation is left behind: {e}");
        }
        let detached = self.detach_volumes(container).await;
        if let Err(e) = &detached {
            tracing::error!("the volumes are left behind: {e}");
        }
        tracing::error!("{error}");
        let changes = Changes {
            // Whoever deletes it comes here, and what is left behind is tried again.
            host: detached.is_ok().then_some(None),
            container_id: Some(None),
            addresses: Some(model::Addresses::new()),
            task_state: Some(None),
            started_at: Some(None),
            ..Changes::error(error.to_string())
        };
        if let Err(e) = self.save(container, changes).await {
            tracing::error!("the failure is not recorded: {e}");
        }
    }

    pub(super) fn new_record(&self, container: &Container, image: &Image) -> Result<Record> {
        let default = &self.options.default;
        let own = container.environment.iter().flat_map(|map| &map.0);
        let memory = container.memory.as_deref().filter(|memory| !memory.is_empty());
        let memory_mib = match memory {
            Some(memory) => {
                memory.parse().map_err(|_| Error::Invalid(format!("memory {memory:?} is no number")))?
            }
            None => default.default_memory,
        };
        let asked = ContainerRequest {
            id: container.uuid.to_string(),
            owner: container.project_id.clone().unwrap_or_default(),
            entrypoint: container.entrypoint.as_ref().map(|json| json.0.clone()),
            command: container.command.as_ref().map(|json| json.0.clone()),
            environment: own.map(|(name, value)| format!("{name}={value}")).collect(),
            directory: container.workdir.clone(),
            hostname: hostname(container),
            cpus: container.cpu.unwrap_or(default.default_cpu),
            memory_mib,
            terminal: container.tty.unwrap_or(false),
            interactive: container.interactive.unwrap_or(false),
            disk_limit: self.options.kata.disk_limit(),
            privileged: container.privileged.unwrap_or(false),
            oci: Value::Null,
        };
        Ok(Record { pinning: self.pins.get(container.uuid), ..Record::new(asked, image)? })
    }
}

/// Options whose meaning is not built are refused: a container that ignores them would not be what was asked for. So are
/// those that make no sense.
pub(super) fn refuse_what_is_not_built(container: &Container) -> Result<()> {
    RestartPolicy::of(container)?;
    HealthCheck::of(container)?;
    exposed_ports::of(container)?;
    match container.runtime.as_deref() {
        Some(runtime) if runtime != RUNTIME => Err(Error::NotSupported("a runtime other than kata".into())),
        _ => Ok(()),
    }
}

/// The host name that a container is given, or Docker's default.
pub(super) fn hostname(container: &Container) -> String {
    let given = container.hostname.clone().filter(|name| !name.is_empty());
    // Docker's default is the beginning of the container's identifier.
    let name = given.unwrap_or_else(|| container.uuid.0.simple().to_string().chars().take(12).collect());
    name.chars().take(HOSTNAME_MAX).collect()
}

/// What a container's row says once it is made.
pub(super) fn created_changes(
    container: &Container,
    image: &Image,
    attachments: &[Attachment],
    hostname: &str,
) -> Changes {
    let config = image.configuration.config().clone().unwrap_or_default();
    let of_image = config.exposed_ports().iter().flatten();
    let of_image = of_image.filter_map(|port| port.split('/').next()?.parse().ok());
    let own = exposed_ports::of(container).unwrap_or_default().into_iter().map(|port| port.number);
    let ports: BTreeSet<u16> = of_image.chain(own).collect();
    Changes {
        container_id: Some(Some(container.uuid.to_string())),
        addresses: Some(networking::addresses(attachments)),
        hostname: Some(hostname.to_owned()),
        ports: Some(ports.into_iter().collect()),
        runtime: Some(RUNTIME.to_owned()),
        entrypoint: container.entrypoint.as_ref().map(|list| list.0.clone()).or(config.entrypoint().clone()),
        command: container.command.as_ref().map(|list| list.0.clone()).or(config.cmd().clone()),
        status_detail: Some(Some("Created".into())),
        ..Changes::status(Status::Created)
    }
}
