//! `network_attach` and `network_detach`: interfaces that come and go, of a container that runs or not.

use model::{Changes, Container, ContainerType, ContainerUuid, RequestedNetwork, TaskState};
use sandbox::Situation;

use super::Manager;
use super::steps::Operation;
use crate::error::{Error, Result};
use crate::networking::{self, Attachment};
use crate::record::Record;

const ATTACH: Operation =
    Operation { task: TaskState::NetworkAttaching, event: "_do_network_attach", action: "network_attach" };

const DETACH: Operation =
    Operation { task: TaskState::NetworkDetaching, event: "_do_network_detach", action: "network_detach" };

impl Manager {
    pub(super) async fn network_attach(
        &self,
        request: &str,
        container: Container,
        network: &RequestedNetwork,
    ) -> Result<()> {
        let work = async |container: &mut Container| self.attach_network(container, network).await;
        self.operate(request, container, &ATTACH, work).await
    }

    pub(super) async fn network_detach(
        &self,
        request: &str,
        container: Container,
        network: &str,
    ) -> Result<()> {
        let work = async |container: &mut Container| self.detach_network(container, network).await;
        self.operate(request, container, &DETACH, work).await
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
            let written = record.write(self.sandbox(container.uuid).path());
            let taken = self.take_away(&record, container.uuid, &[attachment]).await;
            if let Err(left) = written.and(taken) {
                tracing::error!("something is left behind: {left}");
            }
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
            let owner = container.uuid.to_string();
            networking::plug(one, &owner, self.hostname(), sandbox.queue_pairs()?).await?;
            networking::wait_active(&self.neutron, one, self.plugging()).await?;
            sandbox.attach(&attachment.nic, self.options.kata.nic_limit()).await?;
            self.tell_guest(record, container.uuid).await?;
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
        self.take_away(&record, container.uuid, &leaving).await?;
        record.write(self.sandbox(container.uuid).path())?;
        let addresses = Some(networking::addresses(&record.attachments));
        self.save(container, Changes { addresses, ..Changes::default() }).await
    }

    async fn tell_guest(&self, record: &Record, uuid: ContainerUuid) -> Result<()> {
        let network = networking::guest_network(&record.attachments);
        Ok(self.sandbox(uuid).set_network(&network, &record.container.hostname).await?)
    }

    /// Takes interfaces out of a container that keeps those of its record, and gives their ports back.
    async fn take_away(
        &self,
        record: &Record,
        uuid: ContainerUuid,
        attachments: &[Attachment],
    ) -> Result<()> {
        let sandbox = self.sandbox(uuid);
        if let Situation::Live(_) = sandbox.situation().await {
            for attachment in attachments {
                sandbox.detach(&attachment.nic.mac).await?;
            }
            self.tell_guest(record, uuid).await?;
        }
        networking::unplug(attachments).await;
        networking::detach(&self.neutron, attachments).await;
        Ok(())
    }

    /// Takes back what an interrupted attach did, and brings the row's addresses to what the container has.
    pub(super) async fn drop_strays(&self, uuid: ContainerUuid) -> Result<()> {
        let _turn = self.locks.lock(uuid).await;
        let (owner, mut record, sandbox) = (uuid.to_string(), self.record(uuid)?, self.sandbox(uuid));
        let runs = matches!(sandbox.situation().await, Situation::Live(_));
        if runs {
            let there = sandbox.traffic().await?;
            record.attachments.retain(|one| there.iter().any(|slot| slot.device == one.nic.mac));
            record.write(sandbox.path())?;
        }
        let strays = networking::strays(&self.neutron, &owner, &record.attachments).await?;
        if runs {
            for port in &strays {
                sandbox.detach(&port.mac_address).await?;
            }
            self.tell_guest(&record, uuid).await?;
        }
        networking::reclaim(&self.neutron, &owner, &strays).await?;
        let mut container = Container::get(&self.database, ContainerType::Container, uuid).await?;
        let addresses = Some(networking::addresses(&record.attachments));
        self.save(&mut container, Changes { addresses, ..Changes::default() }).await
    }
}
