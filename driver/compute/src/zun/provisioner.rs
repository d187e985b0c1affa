//! Provides for Zun's containers and capsules: images, ports, volumes and disks, from what their rows ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use cloud::Neutron;
use image::Image;
use model::{
    Addresses, Changes, Container, ContainerType, ContainerUuid, RequestedNetwork, Status, VolumeMapping,
};
use oslo::RequestContext;
use sandbox::VolumeDisk;
use serde_json::Value;

use crate::belongings::{Belongings, GiveBack};
use crate::containers::{Provision, Thoroughness, Volume, Wanted};
use crate::engine::{Engine, HostEngine};
use crate::error::{Error, Result};
use crate::health::{Health, HealthCheck, HealthChecks};
use crate::images::Images;
use crate::interfaces::{self, Interfaces};
use crate::lifecycle::{Kind, RestartPolicy};
use crate::networking::exposed_ports::{self, ExposedPort};
use crate::networking::{self, Attachment, PortOwner};
use crate::options::Options;
use crate::pins;
use crate::record::{Member, NewMember, SandboxRecord, entry_and_command};
use crate::resources::Resources;
use crate::rows::{Rows, ZunRows};
use crate::turns::Turn;
use crate::volumes::{Volumes, containers_of, files_of, mounts_of};

const RUNTIME: &str = "kata";
const HOSTNAME_MAX: usize = 63;
/// Upstream's owner of container ports (`zun/network/kuryr_network.py`).
const PORT_KIND: &str = "compute:kuryr";

/// Provides for the containers of this host.
#[derive(Clone)]
pub struct Provisioner {
    /// The options.
    pub options: Arc<Options>,
    /// Zun's rows.
    pub rows: ZunRows,
    /// The sandboxes of this host.
    pub engine: HostEngine,
    /// Images.
    pub images: Images,
    /// Ports.
    pub neutron: Neutron,
    /// Interfaces of containers that are there.
    pub interfaces: Interfaces,
    /// Volumes.
    pub volumes: Volumes,
    /// What this host has for containers.
    pub resources: Resources,
    /// What containers give back.
    pub give_back: GiveBack,
    /// Checks of containers' health.
    pub health: HealthChecks,
}

/// Whose ports those of a container or a capsule are.
pub fn port_owner(row: &Container) -> PortOwner {
    PortOwner {
        project: row.project_id.clone().unwrap_or_default(),
        security_groups: row.security_groups.as_ref().map(|groups| groups.0.clone()).unwrap_or_default(),
        ..port_owner_of(row.uuid)
    }
}

/// The same of one whose row is gone.
pub fn port_owner_of(uuid: ContainerUuid) -> PortOwner {
    PortOwner {
        id: uuid.to_string(),
        project: String::new(),
        kind: PORT_KIND,
        port_name: format!("zun-{uuid}"),
        security_groups: Vec::new(),
    }
}

impl Provision for Provisioner {
    type Health = Health;

    async fn accept(&self, volumes: &[Volume]) -> Result<()> {
        for (container, volume) in volumes {
            volume.create(self.rows.database(), *container).await?;
        }
        Ok(())
    }

    async fn claim(&self, row: &mut Container, changes: Changes) -> Result<()> {
        let _claiming = self.resources.claiming().await;
        self.resources.claim(row.uuid, Default::default(), row.usage()).await?;
        if pins::is_dedicated(row) {
            self.resources.pin(row)?;
        }
        let host = Changes { host: Some(Some(self.options.default.host.clone())), ..changes };
        self.rows.save(row, host).await
    }

    async fn make(&self, wanted: &Wanted, row: &mut Container, turn: &Turn) -> Result<Changes> {
        reject_unsupported(row)?;
        let Prepared { mut record, mappings, mut changes, exposed, images: _held } = match row.is_capsule() {
            false => Box::pin(self.new_container(wanted, row, turn)).await?,
            true => Box::pin(self.new_capsule(wanted, row, turn)).await?,
        };
        record.sandbox_spec(&self.options.kata).validate()?;
        give_up_if_hurried(turn)?;
        self.volumes.attach(row.uuid, &mappings).await?;
        let mut owner = port_owner(row);
        if let Some(group) = exposed_ports::open(&self.neutron, row, &exposed).await? {
            owner.security_groups.push(group);
            changes.security_groups = Some(owner.security_groups.clone());
        }
        give_up_if_hurried(turn)?;
        let hostname = self.engine.hostname();
        record.attachments = networking::attach(&self.neutron, &owner, hostname, &wanted.networks).await?;
        tracing::info!("the ports are ready");
        changes.addresses = Some(networking::addresses(&record.attachments));
        self.make_sandbox(row, &record).await?;
        Ok(changes)
    }

    async fn remake(&self, context: &RequestContext, row: &mut Container, turn: &Turn) -> Result<Changes> {
        reject_unsupported(row)?;
        tracing::info!(image = row.image, "rebuilding");
        let (image, told) = Box::pin(self.images.of_container(context, row, turn)).await?;
        if pins::is_dedicated(row) {
            let _claiming = self.resources.claiming().await;
            self.resources.pin(row)?;
        }
        let mappings = VolumeMapping::list_by_container(self.rows.database(), row.uuid).await?;
        let mut record = self.record_of(row, &image, &mappings)?;
        record.sandbox_spec(&self.options.kata).validate()?;
        record.attachments = self.kept_attachments(row).await?;
        give_up_if_hurried(turn)?;
        self.engine.release(row.uuid).await?;
        self.engine.sandbox(row.uuid).delete().await?;
        self.make_sandbox(row, &record).await?;
        let made = created(row, &image, &record.hostname);
        let addresses = Some(networking::addresses(&record.attachments));
        Ok(Changes { addresses, status_reason: Some(None), ..made.after(told) })
    }

    async fn unmake(&self, row: &Container, asked: &[i32], thoroughness: Thoroughness) -> Result<()> {
        let (database, owner) = (self.rows.database(), port_owner(row));
        let containers = containers_of(database, row).await?;
        let mut mappings = self.volumes.mappings_of(&containers).await?;
        mappings.extend(VolumeMapping::unmapped(database, asked).await?);
        let attachments = self.give_back.attachments(row.uuid);
        let mut belongings = Belongings::of(row.uuid, owner.project.clone(), attachments, &mappings)?;
        if let Err(e) = self.give_back.all(&mut belongings, &owner).await {
            match thoroughness {
                Thoroughness::All => return Err(e),
                Thoroughness::Debts => self.give_back.remember(belongings, &e).await?,
            }
        }
        if !mappings.is_empty() {
            self.volumes.forget(&containers).await?;
        }
        Ok(VolumeMapping::destroy_unmapped(database, asked).await?)
    }

    async fn give_back_unbegun(&self, uuid: ContainerUuid, asked: &[i32]) -> Result<()> {
        let database = self.rows.database();
        let mappings = VolumeMapping::unmapped(database, asked).await?;
        let mut belongings = Belongings::of_unbegun(uuid, &mappings)?;
        if let Err(e) = self.give_back.all(&mut belongings, &port_owner_of(uuid)).await {
            self.give_back.remember(belongings, &e).await?;
        }
        Ok(VolumeMapping::destroy_unmapped(database, asked).await?)
    }

    async fn disks(&self, row: &Container, record: &SandboxRecord) -> Result<Vec<VolumeDisk>> {
        if !record.has_volumes() {
            return Ok(Vec::new());
        }
        let containers = containers_of(self.rows.database(), row).await?;
        self.volumes.disks(&self.volumes.mappings_of(&containers).await?).await
    }

    async fn mend_networks(&self, row: &Container) -> Result<Changes> {
        interfaces::mend(&self.interfaces, row.uuid, &port_owner(row)).await
    }

    async fn take_over(&self, row: &mut Container) -> Result<()> {
        let host = Changes { host: Some(Some(self.options.default.host.clone())), ..Changes::default() };
        self.rows.save(row, host).await?;
        interfaces::rebind(&self.interfaces, row.uuid, &port_owner(row)).await
    }

    async fn accompany(&self, row: &Container) {
        self.health.keep_checking(row).await;
    }

    fn health(&self, uuid: ContainerUuid) -> Option<Health> {
        self.health.get(uuid)
    }
}

/// What is to be made.
struct Prepared {
    /// Without its networks.
    record: SandboxRecord,
    /// The volumes.
    mappings: Vec<VolumeMapping>,
    /// What the row says.
    changes: Changes,
    /// Ports that are let through.
    exposed: BTreeSet<ExposedPort>,
    /// Held until the record is written.
    images: Vec<Image>,
}

impl Provisioner {
    async fn new_container(&self, wanted: &Wanted, row: &mut Container, turn: &Turn) -> Result<Prepared> {
        let mappings = self.accepted(row.uuid, wanted).await?;
        let disk = (row.disk.unwrap_or(0) == 0).then_some(self.options.default.default_disk);
        row.disk = row.disk.filter(|disk| *disk != 0).or(disk);
        let (image, told) = Box::pin(self.images.of_container(&wanted.context, row, turn)).await?;
        tracing::info!("the image is ready");
        let record = self.record_of(row, &image, &mappings)?;
        let made = Changes { disk, ..created(row, &image, &record.hostname) };
        let (changes, exposed) = (made.after(told), exposed_ports::of(row)?);
        Ok(Prepared { record, mappings, changes, exposed, images: vec![image] })
    }

    async fn new_capsule(&self, wanted: &Wanted, capsule: &mut Container, turn: &Turn) -> Result<Prepared> {
        let owner = capsule.project_id.clone().unwrap_or_default();
        let mut record = SandboxRecord::new(Kind::Capsule, owner, hostname(capsule));
        let (mut mappings, mut exposed, mut images) = (Vec::new(), BTreeSet::new(), Vec::new());
        for mut row in self.rows.members(capsule).await? {
            reject_unsupported(&row)?;
            let own = self.accepted(row.uuid, wanted).await?;
            if !files_of(&own)?.is_empty() {
                return Err(Error::NotSupported("a file as volume of a capsule".into()));
            }
            let (image, told) = Box::pin(self.images.of_container(&wanted.context, &mut row, turn)).await?;
            let mut member = self.new_member(&row, &image)?;
            member.container.mounts = mounts_of(&own)?;
            let made = Changes {
                status: None,
                status_detail: None,
                ..created(&row, &image, &member.container.hostname)
            };
            self.rows.save(&mut row, made.after(told)).await?;
            exposed.extend(exposed_ports::of(&row)?);
            mappings.extend(own);
            images.push(image);
            match row.kind() {
                Some(ContainerType::CapsuleInitContainer) => record.init.push(member),
                _ => record.members.push(member),
            }
        }
        let changes = Changes {
            container_id: Some(Some(capsule.uuid.to_string())),
            hostname: Some(record.hostname.clone()),
            runtime: Some(RUNTIME.to_owned()),
            ..Changes::status(Status::Creating)
        };
        Ok(Prepared { record, mappings, changes, exposed, images })
    }

    /// The volumes that a container was given.
    async fn accepted(&self, container: ContainerUuid, wanted: &Wanted) -> Result<Vec<VolumeMapping>> {
        let is_given = wanted.volumes.iter().any(|(whose, _)| *whose == container);
        if is_given { self.rows.volumes(container).await } else { Ok(Vec::new()) }
    }

    fn record_of(&self, row: &Container, image: &Image, mappings: &[VolumeMapping]) -> Result<SandboxRecord> {
        let mut member = self.new_member(row, image)?;
        (member.files, member.container.mounts) = (files_of(mappings)?, mounts_of(mappings)?);
        let owner = row.project_id.clone().unwrap_or_default();
        let pinning = self.resources.pins().get(row.uuid);
        Ok(SandboxRecord { pinning, ..SandboxRecord::of_container(owner, member) })
    }

    fn new_member(&self, row: &Container, image: &Image) -> Result<Member> {
        let default = &self.options.default;
        let own = row.environment.iter().flat_map(|map| &map.0);
        let memory_mib = match row.memory.as_deref().filter(|memory| !memory.is_empty()) {
            Some(memory) => memory
                .parse()
                .map_err(|_| Error::invalid("memory", format!("{memory:?} is no number of MiB")))?,
            None => default.default_memory,
        };
        let new = NewMember {
            id: row.uuid.to_string(),
            entrypoint: row.entrypoint.as_ref().map(|json| json.0.clone()),
            command: row.command.as_ref().map(|json| json.0.clone()),
            environment: own.map(|(name, value)| format!("{name}={value}")).collect(),
            directory: row.workdir.clone(),
            hostname: hostname(row),
            cpus: row.cpu.unwrap_or(default.default_cpu),
            memory_mib,
            terminal: row.tty.unwrap_or(false),
            interactive: row.interactive.unwrap_or(false),
            disk_limit: self.options.kata.disk_limit(),
            privileged: row.privileged.unwrap_or(false),
            oci: Value::Null,
        };
        Member::new(new, image)
    }

    /// Makes what this host keeps of a container or a capsule.
    async fn make_sandbox(&self, row: &Container, record: &SandboxRecord) -> Result<()> {
        let sandbox = self.engine.sandbox(row.uuid);
        sandbox.create()?;
        let default = u64::try_from(self.options.default.default_disk).unwrap_or(1).max(1);
        let own = row.disk.filter(|_| !row.is_capsule()).and_then(|disk| u64::try_from(disk).ok());
        for member in record.all() {
            sandbox.make_disk(&member.container.id, own.filter(|disk| *disk > 0).unwrap_or(default)).await?;
        }
        record.write(sandbox.path())
    }

    /// The container's places on its networks: as recorded, or, where this host has lost the record, as its row has them.
    async fn kept_attachments(&self, row: &Container) -> Result<Vec<Attachment>> {
        if let Ok(record) = self.engine.record(row.uuid) {
            return Ok(record.attachments);
        }
        let mut attachments = Vec::new();
        let owner = port_owner(row);
        for (index, network) in networks_of(row.addresses.iter().map(|all| &all.0)).iter().enumerate() {
            let taken = networking::take(&self.neutron, &owner, self.engine.hostname(), network, index);
            attachments.push(taken.await?);
        }
        Ok(attachments)
    }
}

/// The ports that a row's addresses name, each once.
fn networks_of<'a>(addresses: impl Iterator<Item = &'a Addresses>) -> Vec<RequestedNetwork> {
    let mut networks: Vec<RequestedNetwork> = Vec::new();
    let each = addresses.flatten().flat_map(|(network, all)| all.iter().map(move |one| (network, one)));
    for (network, address) in each {
        if networks.iter().all(|known| known.port != address.port) {
            networks.push(RequestedNetwork {
                network: network.clone(),
                port: address.port.clone(),
                fixed_ip: String::new(),
                preserve_on_delete: address.preserve_on_delete,
                pci_request_id: None,
            });
        }
    }
    networks
}

fn give_up_if_hurried(turn: &Turn) -> Result<()> {
    if turn.is_hurried() { Err(Error::GivenUp { subject: "the creation of a container" }) } else { Ok(()) }
}

/// Options whose meaning is not built are refused: a container that ignores them would not be what was asked for. So are
/// those that make no sense.
fn reject_unsupported(row: &Container) -> Result<()> {
    RestartPolicy::of(row)?;
    HealthCheck::of(row)?;
    exposed_ports::of(row)?;
    match row.runtime.as_deref() {
        Some(runtime) if runtime != RUNTIME => Err(Error::NotSupported("a runtime other than kata".into())),
        _ => Ok(()),
    }
}

/// The host name that a container is given, or Docker's default: the beginning of the container's identifier.
fn hostname(row: &Container) -> String {
    let given = row.hostname.clone().filter(|name| !name.is_empty());
    let name = given.unwrap_or_else(|| row.uuid.0.simple().to_string().chars().take(12).collect());
    name.chars().take(HOSTNAME_MAX).collect()
}

/// What a container's row says once it is made.
fn created(row: &Container, image: &Image, hostname: &str) -> Changes {
    let config = image.configuration.config().clone().unwrap_or_default();
    let of_image = config.exposed_ports().iter().flatten();
    let of_image = of_image.filter_map(|port| port.split('/').next()?.parse().ok());
    let own = exposed_ports::of(row).unwrap_or_default().into_iter().map(|port| port.number);
    let ports: BTreeSet<u16> = of_image.chain(own).collect();
    let entrypoint = row.entrypoint.as_ref().map(|list| list.0.clone());
    let command = row.command.as_ref().map(|list| list.0.clone());
    let (entrypoint, command) = entry_and_command(entrypoint, command, &image.configuration);
    Changes {
        container_id: Some(Some(row.uuid.to_string())),
        hostname: Some(hostname.to_owned()),
        ports: Some(ports.into_iter().collect()),
        runtime: Some(RUNTIME.to_owned()),
        entrypoint: Some(entrypoint),
        command: Some(command),
        status_detail: Some(Some("Created".into())),
        ..Changes::status(Status::Created)
    }
}
