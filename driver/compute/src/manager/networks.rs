//! `network_attach` and `network_detach`: interfaces that come and go, of a container that runs or not.

use model::{Changes, Container, ContainerUuid, RequestedNetwork, TaskState};
use sandbox::Situation;

use super::Manager;
use super::steps::require_created;
use crate::error::{Error, Result};
use crate::networking::{self, Attachment};
use crate::record::Record;

impl Manager {
    pub(super) async fn network_attach(
        &self,
        request: &str,
        container: Container,
        network: &RequestedNetwork,
    ) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let seen = container.clone();
        let work = async {
            require_created(&container)?;
            let began = self.begin(&mut container, TaskState::NetworkAttaching).await?;
            let attached = self.attach_network(&mut container, network).await;
            self.end(&mut container, began).await;
            attached
        };
        let result = self.event(request, &seen, "_do_network_attach", work).await;
        self.finish(request, &container, "network_attach", &result).await;
        result
    }

    pub(super) async fn network_detach(
        &self,
        request: &str,
        container: Container,
        network: &str,
    ) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let seen = container.clone();
        let work = async {
            require_created(&container)?;
            let began = self.begin(&mut container, TaskState::NetworkDetaching).await?;
            let detached = self.detach_network(&mut container, network).await;
            self.end(&mut container, began).await;
            detached
        };
        let result = self.event(request, &seen, "_do_network_detach", work).await;
        self.finish(request, &container, "network_detach", &result).await;
        result
    }

    /// If it fails, the container's networks are what they were, and the port is given back.
    async fn attach_network(&self, container: &mut Container, network: &RequestedNetwork) -> Result<()> {
        let mut record = self.record(container.uuid)?;
        if record.attachments.iter().any(|attachment| attachment.network == network.network) {
            return Err(Error::Conflict(format!(
                "Container {} has already connected to the network {}.",
                container.uuid, network.network
            )));
        }
        let index = networking::free_index(&record.attachments);
        let attachment =
            networking::attach_one(&self.neutron, container, self.hostname(), network, index).await?;
        record.attachments.push(attachment.clone());
        let used = self.use_attachment(container, &record, &attachment).await;
        if used.is_err() {
            record.attachments.pop();
            record.write(self.sandbox(container.uuid).path())?;
            self.take_away(container.uuid, &[attachment]).await?;
        }
        used
    }

    async fn use_attachment(
        &self,
        container: &mut Container,
        record: &Record,
        attachment: &Attachment,
    ) -> Result<()> {
        record.sandbox_spec(&self.options.kata).validate()?;
        let sandbox = self.sandbox(container.uuid);
        record.write(sandbox.path())?;
        if let Situation::Live(_) = sandbox.situation().await {
            let one = std::slice::from_ref(attachment);
            networking::plug(one, &container.uuid.to_string(), self.hostname()).await?;
            networking::wait_active(&self.neutron, one, self.plugging()).await?;
            sandbox.attach(&attachment.nic, self.options.kata.nic_limit()).await?;
        }
        let addresses = Some(networking::addresses(&record.attachments));
        self.save(container, Changes { addresses, ..Changes::default() }).await
    }

    async fn detach_network(&self, container: &mut Container, network: &str) -> Result<()> {
        let mut record = self.record(container.uuid)?;
        let (leaving, staying): (Vec<_>, Vec<_>) =
            record.attachments.into_iter().partition(|attachment| attachment.network == network);
        if leaving.is_empty() {
            return Err(Error::Invalid(format!(
                "Network {network} is not attached to container {}.",
                container.uuid
            )));
        }
        record.attachments = staying;
        self.take_away(container.uuid, &leaving).await?;
        record.write(self.sandbox(container.uuid).path())?;
        let addresses = Some(networking::addresses(&record.attachments));
        self.save(container, Changes { addresses, ..Changes::default() }).await
    }

    /// Takes interfaces out of a container, and gives their ports back.
    async fn take_away(&self, uuid: ContainerUuid, attachments: &[Attachment]) -> Result<()> {
        let sandbox = self.sandbox(uuid);
        if let Situation::Live(_) = sandbox.situation().await {
            for attachment in attachments {
                sandbox.detach(&attachment.nic.mac).await?;
            }
        }
        networking::unplug(attachments).await;
        networking::detach(&self.neutron, attachments).await;
        Ok(())
    }

    /// Gives back ports that an interrupted attach left, and brings the row's addresses to what the container has.
    pub(super) async fn drop_strays(&self, uuid: ContainerUuid) -> Result<()> {
        let _turn = self.locks.lock(uuid).await;
        let (owner, record, sandbox) = (uuid.to_string(), self.record(uuid)?, self.sandbox(uuid));
        let strays = networking::strays(&self.neutron, &owner, &record.attachments).await?;
        if let Situation::Live(_) = sandbox.situation().await {
            for port in &strays {
                sandbox.detach(&port.mac_address).await?;
            }
        }
        networking::reclaim(&self.neutron, &owner, &strays).await?;
        let mut container = Container::get(&self.database, uuid).await?;
        let addresses = Some(networking::addresses(&record.attachments));
        self.save(&mut container, Changes { addresses, ..Changes::default() }).await
    }
}
