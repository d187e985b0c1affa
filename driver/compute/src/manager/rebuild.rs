//! `container_rebuild`: the container is made anew from its image, and keeps its identifier and its ports.

use std::sync::Arc;

use model::{
    Changes, Container, ContainerType, ContainerUuid, RequestedNetwork, Status, TaskState, VolumeMapping,
};
use oslo::RequestContext;

use super::Manager;
use super::create::{created_changes, refuse_what_is_not_built};
use super::volumes::{files_of, mounts_of};
use crate::error::{Error, Result};
use crate::networking::{self, Attachment};
use crate::pinning;

impl Manager {
    pub(super) async fn container_rebuild(
        self: &Arc<Self>,
        context: &RequestContext,
        container: Container,
        run: bool,
    ) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let seen = container.clone();
        let rebuild = async {
            let began = self.begin(&mut container, TaskState::ContainerRebuilding).await?;
            let rebuilt = self.rebuild(context, &mut container).await;
            self.end(&mut container, began).await;
            rebuilt?;
            if run { self.start_locked(context.request(), &mut container).await } else { Ok(()) }
        };
        let result = self.event(context.request(), &seen, "_do_container_rebuild", rebuild).await;
        if let Err(e) = &result {
            self.fail_rebuild(&mut container, e).await;
        }
        self.finish(context.request(), &container, "rebuild", &result).await;
        result
    }

    /// A container that is as it was goes on, and says why it was not rebuilt.
    async fn fail_rebuild(&self, container: &mut Container, error: &Error) {
        self.fail(container, error).await;
        if self.sandbox(container.uuid).situation().await.runs(&container.uuid.to_string()) {
            let reason = Some(Some(format!("it was not rebuilt: {error}")));
            let changes = Changes { status_reason: reason, ..Changes::status(Status::Running) };
            if let Err(e) = self.save(container, changes).await {
                tracing::error!("its status is not recorded: {e}");
            }
        }
    }

    /// What may fail without harm comes first: until the image is there, the container is as it was.
    async fn rebuild(&self, context: &RequestContext, container: &mut Container) -> Result<()> {
        refuse_what_is_not_built(container)?;
        tracing::info!(image = container.image, "rebuilding");
        let image = self.container_image(context, container).await?;
        if pinning::is_dedicated(container) {
            let _turn = self.claims.lock().await;
            self.choose_cpus(container)?;
        }
        let mut record = self.new_record(container, &image)?;
        record.sandbox_spec(&self.options.kata).validate()?;
        record.attachments = self.kept_attachments(container).await?;
        let volumes = VolumeMapping::list_by_container(&self.database, container.uuid).await?;
        (record.files, record.container.mounts) = (files_of(&volumes)?, mounts_of(&volumes)?);
        let sandbox = self.sandbox(container.uuid);
        self.release(container.uuid).await?;
        sandbox.delete().await?;
        self.make_sandbox(container, &record).await?;
        let changes = Changes {
            status: Some(Status::Created),
            ..created_changes(container, &image, &record.attachments, &record.container.hostname)
        };
        self.save(container, changes).await
    }

    /// The container's places on its networks: as recorded, or, where this host has lost the record, as its row has them.
    async fn kept_attachments(&self, container: &Container) -> Result<Vec<Attachment>> {
        if let Ok(record) = self.record(container.uuid) {
            return Ok(record.attachments);
        }
        let addresses = container.addresses.iter().flat_map(|addresses| &addresses.0);
        let mut networks: Vec<RequestedNetwork> = Vec::new();
        for (network, address) in
            addresses.flat_map(|(network, all)| all.iter().map(move |one| (network, one)))
        {
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
        let mut attachments = Vec::new();
        for (index, network) in networks.iter().enumerate() {
            let owner = container.uuid.to_string();
            attachments.push(networking::take(&self.neutron, &owner, self.hostname(), network, index).await?);
        }
        Ok(attachments)
    }

    /// Whether a container was made of which this host has nothing left.
    pub fn has_lost(&self, container: &Container) -> bool {
        let settled = !matches!(container.status, Status::Creating | Status::Deleting | Status::Deleted);
        settled && container.container_id.is_some() && self.record(container.uuid).is_err()
    }

    /// The same of a container that was lost when it was last looked at.
    pub(super) async fn heal_if_lost(self: &Arc<Self>, uuid: ContainerUuid) -> Result<()> {
        let turn = self.locks.lock(uuid).await;
        let container = Container::get(&self.database, ContainerType::Container, uuid).await?;
        let lost = self.has_lost(&container) && container.task_state.is_none();
        drop(turn);
        if lost { self.heal(container).await } else { Ok(()) }
    }

    /// Heals a container of which this host has nothing left: it is rebuilt where it asks for that, and otherwise is in
    /// error.
    pub async fn heal(self: &Arc<Self>, mut container: Container) -> Result<()> {
        if container.auto_heal.unwrap_or(false) {
            tracing::warn!("this host has nothing of it: it is rebuilt");
            let run = container.is_up() || container.status == Status::Restarting;
            return self.container_rebuild(&RequestContext::default(), container, run).await;
        }
        let reason = format!("No such container: {} on this host", container.uuid);
        tracing::error!("{reason}");
        self.save(&mut container, Changes::error(reason)).await
    }
}
