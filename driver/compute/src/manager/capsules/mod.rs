//! Capsules: several containers in one sandbox, with one network. They come and go by the same messages as containers
//! (`zun/container/docker/driver.py`, `create_capsule`).

mod life;
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{
    Changes, Container, ContainerType, ContainerUuid, RequestedNetwork, Status, TaskState, VolumeMapping,
};
use oslo::RequestContext;

use super::Manager;
use super::create::{hostname, refuse_what_is_not_built};
use super::dispatch::Arguments;
use super::volumes::{files_of, mounts_of};
use crate::capsule_record::{CapsuleRecord, Member};
use crate::error::{Error, Result};
use crate::exposed_ports::{self, ExposedPort};
use crate::manager::Restarts;
use crate::networking;

impl Manager {
    pub(super) async fn capsule_create(
        self: &Arc<Self>,
        context: &RequestContext,
        mut capsule: Container,
        arguments: &Arguments,
    ) -> Result<()> {
        let networks: Vec<RequestedNetwork> = arguments.get("requested_networks")?;
        tracing::info!("creating a capsule");
        let seen = capsule.clone();
        let create = async {
            self.prepare_capsule(context, &mut capsule, &networks, arguments).await?;
            self.run_members(capsule.uuid).await
        };
        let result = self.event(context.request(), &seen, "_do_container_create", create).await;
        if let Err(e) = &result {
            self.undo_create_capsule(&mut capsule, e).await;
        }
        self.finish(context.request(), &capsule, "create", &result).await;
        result
    }

    /// Makes the capsule and brings its sandbox up.
    async fn prepare_capsule(
        self: &Arc<Self>,
        context: &RequestContext,
        capsule: &mut Container,
        networks: &[RequestedNetwork],
        arguments: &Arguments,
    ) -> Result<()> {
        let _turn = self.locks.lock(capsule.uuid).await;
        self.claim(capsule).await?;
        let began = self.begin(capsule, TaskState::ContainerCreating).await?;
        let made = async {
            self.make_capsule(context, capsule, networks, arguments).await?;
            self.start_capsule(capsule).await
        };
        let made = made.await;
        self.end(capsule, began).await;
        made
    }

    async fn make_capsule(
        &self,
        context: &RequestContext,
        capsule: &mut Container,
        networks: &[RequestedNetwork],
        arguments: &Arguments,
    ) -> Result<()> {
        let mut volumes = BTreeMap::new();
        for container in self.containers_of(capsule).await? {
            volumes.insert(container, self.take_volumes(container, arguments).await?);
        }
        let all: Vec<VolumeMapping> = volumes.values().flatten().cloned().collect();
        if !files_of(&all)?.is_empty() {
            return Err(Error::NotSupported("a file as volume of a capsule".into()));
        }
        let (init, containers) = (ContainerType::CapsuleInitContainer, ContainerType::CapsuleContainer);
        let mut record = CapsuleRecord {
            owner: capsule.project_id.clone().unwrap_or_default(),
            hostname: hostname(capsule),
            init: self.new_members(context, capsule, init, &volumes).await?,
            containers: self.new_members(context, capsule, containers, &volumes).await?,
            attachments: Vec::new(),
            restarts: Restarts::default(),
        };
        record.sandbox_spec(&self.options.kata).validate()?;
        self.attach_volumes(capsule.uuid, &all).await?;
        let exposed = self.ports_of_members(capsule).await?;
        self.expose(capsule, &exposed).await?;
        record.attachments = networking::attach(&self.neutron, capsule, self.hostname(), networks).await?;
        let made = self.make_capsule_sandbox(capsule, &record).await;
        if made.is_err() {
            networking::detach(&self.neutron, &record.attachments).await;
        }
        made?;
        let changes = Changes {
            container_id: Some(Some(capsule.uuid.to_string())),
            addresses: Some(networking::addresses(&record.attachments)),
            hostname: Some(record.hostname),
            ..Changes::default()
        };
        self.save(capsule, changes).await
    }

    async fn ports_of_members(&self, capsule: &Container) -> Result<BTreeSet<ExposedPort>> {
        let mut ports = BTreeSet::new();
        for kind in [ContainerType::CapsuleInitContainer, ContainerType::CapsuleContainer] {
            for member in capsule.list_of_capsule(&self.database, kind).await? {
                ports.extend(exposed_ports::of(&member)?);
            }
        }
        Ok(ports)
    }

    async fn make_capsule_sandbox(&self, capsule: &Container, record: &CapsuleRecord) -> Result<()> {
        let sandbox = self.sandbox(capsule.uuid);
        sandbox.create()?;
        for member in record.members() {
            sandbox.make_disk(&member.container.id, self.default_disk()).await?;
        }
        record.write(sandbox.path())
    }

    fn default_disk(&self) -> u64 {
        u64::try_from(self.options.default.default_disk).unwrap_or(1).max(1)
    }

    /// The capsule's containers of a kind, with their images.
    async fn new_members(
        &self,
        context: &RequestContext,
        capsule: &Container,
        kind: ContainerType,
        volumes: &BTreeMap<ContainerUuid, Vec<VolumeMapping>>,
    ) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for mut row in capsule.list_of_capsule(&self.database, kind).await? {
            refuse_what_is_not_built(&row)?;
            let image = self.container_image(context, &mut row).await?;
            let mut container = self.new_record(&row, &image)?.container;
            container.mounts = volumes.get(&row.uuid).map_or(Ok(Vec::new()), |volumes| mounts_of(volumes))?;
            let changes = Changes { container_id: Some(Some(container.id.clone())), ..Changes::default() };
            self.save(&mut row, changes).await?;
            members.push(Member { container, restarts: Restarts::default() });
        }
        Ok(members)
    }

    /// A create that failed leaves nothing on this host, in Neutron and in Placement, and says why; unless the capsule was
    /// deleted in the meantime.
    async fn undo_create_capsule(&self, capsule: &mut Container, error: &Error) {
        let _turn = self.locks.lock(capsule.uuid).await;
        if self.fresh_capsule(capsule).await.is_err() {
            return;
        }
        self.undo_create(capsule, error).await;
        for kind in [ContainerType::CapsuleInitContainer, ContainerType::CapsuleContainer] {
            let members = capsule.list_of_capsule(&self.database, kind).await.unwrap_or_default();
            for mut member in members.into_iter().filter(|member| member.status != Status::Stopped) {
                let changes = Changes { container_id: Some(None), ..Changes::error(error.to_string()) };
                if let Err(e) = self.save(&mut member, changes).await {
                    tracing::error!(member = %member.uuid, "the failure is not recorded: {e}");
                }
            }
        }
    }

    pub(super) async fn capsule_delete(&self, capsule: Container) -> Result<()> {
        let _turn = self.locks.lock(capsule.uuid).await;
        let capsule = self.fresh_capsule(&capsule).await?;
        tracing::info!("deleting a capsule");
        self.delete_locked(capsule, true).await
    }

    /// The capsule's row as it is now.
    async fn fresh_capsule(&self, capsule: &Container) -> Result<Container> {
        Ok(Container::get(&self.database, ContainerType::Capsule, capsule.uuid).await?)
    }
}
