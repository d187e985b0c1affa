use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloud::Neutron;
use model::ContainerUuid;
use sandbox::{ContainerExit, Host, Sandbox, SandboxStatus, VolumeDisk};
use tokio::task::block_in_place;

use super::Engine;
use crate::error::{Error, Result};
use crate::networking::{self, Attachment, Plugging};
use crate::options::Kata;
use crate::record::{SandboxRecord, sandbox_name};
use crate::turns::Turn;
use crate::volumes::inject_files;

/// The sandboxes of this host, on Neutron's networks.
#[derive(Clone)]
pub struct HostEngine {
    host: Host,
    neutron: Neutron,
    /// By which name Neutron knows this host.
    hostname: String,
    kata: Arc<Kata>,
}

impl HostEngine {
    /// An engine on `host`.
    pub fn new(host: Host, neutron: Neutron, hostname: String, kata: Arc<Kata>) -> Self {
        Self { host, neutron, hostname, kata }
    }

    /// By which name Neutron knows this host.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// A sandbox, whether it exists or not.
    pub fn sandbox(&self, id: ContainerUuid) -> Sandbox {
        self.host.sandbox(&sandbox_name(id))
    }

    /// How long Neutron may take to wire a port.
    pub fn plugging(&self) -> Plugging {
        Plugging {
            timeout: Duration::from_secs(self.kata.vif_plugging_timeout),
            is_fatal: self.kata.vif_plugging_is_fatal,
        }
    }

    /// A port of a stopped container may have been given to another one of this host since: whose tap is there is asked for before it
    /// is taken.
    async fn check_ports(&self, owner: &str, attachments: &[Attachment]) -> Result<()> {
        let held = |one: &&Attachment| network::may_be_anothers(&one.port, owner);
        let held: Vec<_> = attachments.iter().filter(held).cloned().collect();
        if held.is_empty() {
            return Ok(());
        }
        let own = networking::still_owned(&self.neutron, owner, &held).await?;
        let is_own = |one: &&Attachment| own.iter().any(|own| own.port == one.port);
        match held.iter().find(|one| !is_own(one)) {
            Some(Attachment { port, .. }) => {
                Err(Error::Network(format!("port {port} is another container's by now")))
            }
            None => Ok(()),
        }
    }

    async fn bring_up(
        &self,
        sandbox: &Sandbox,
        record: &SandboxRecord,
        disks: Vec<VolumeDisk>,
        turn: &Turn,
    ) -> Result<()> {
        let spec = sandbox::SandboxSpec { volumes: disks, ..record.sandbox_spec(&self.kata) };
        let owner = sandbox.id();
        self.check_ports(owner, &record.attachments).await?;
        networking::plug(&record.attachments, owner, &self.hostname, spec.queue_pairs()).await?;
        // A launch is not left half done: it has an end of its own.
        let made = async {
            sandbox.start(&spec).await?;
            unless_hurried(turn, "the start", async {
                if let Some(main) = record.main_process() {
                    sandbox.make_container(&main.container).await?;
                    inject_files(sandbox, record).await?;
                }
                Ok(())
            })
            .await
        };
        // Meanwhile Neutron wires the ports: no process runs before it can be reached.
        let active = networking::wait_active(&self.neutron, &record.attachments, self.plugging());
        let active = unless_hurried(turn, "the wait for ports", active);
        let (made, active) = tokio::join!(made, active);
        made.and(active)?;
        match record.main_process() {
            Some(main) => Ok(sandbox.start_container(&main.container.id).await?),
            None => Ok(()),
        }
    }
}

async fn unless_hurried(
    turn: &Turn,
    subject: &'static str,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::select! {
        biased;
        done = work => done,
        () = turn.hurried() => Err(Error::GivenUp { subject }),
    }
}

impl Engine for HostEngine {
    fn record(&self, id: ContainerUuid) -> Result<SandboxRecord> {
        SandboxRecord::read(self.sandbox(id).path())
    }

    fn find_record(&self, id: ContainerUuid) -> Result<Option<SandboxRecord>> {
        SandboxRecord::find(self.sandbox(id).path())
    }

    fn write_record(&self, id: ContainerUuid, record: &SandboxRecord) -> Result<()> {
        record.write(self.sandbox(id).path())
    }

    fn survey(&self) -> Result<BTreeMap<ContainerUuid, SandboxStatus>> {
        // There may be a thousand sandboxes, each several files: other tasks go on meanwhile.
        let all = block_in_place(|| self.host.survey())?.into_iter();
        Ok(all.filter_map(|(name, status)| Some((name.parse().ok()?, status))).collect())
    }

    async fn status(&self, id: ContainerUuid) -> SandboxStatus {
        self.sandbox(id).status().await
    }

    async fn glance(&self, id: ContainerUuid) -> SandboxStatus {
        self.sandbox(id).glance().await
    }

    async fn start(
        &self,
        id: ContainerUuid,
        record: &SandboxRecord,
        disks: Vec<VolumeDisk>,
        turn: &Turn,
    ) -> Result<()> {
        let (sandbox, began) = (self.sandbox(id), SystemTime::now());
        match Box::pin(self.bring_up(&sandbox, record, disks, turn)).await {
            Ok(()) => {
                log_stages(&sandbox, began).await;
                Ok(())
            }
            Err(e) => {
                if let Err(left) = self.release(id).await {
                    tracing::error!(sandbox = %id, error = %left, "something of a failed start is left behind");
                }
                Err(e)
            }
        }
    }

    async fn run_member(&self, id: ContainerUuid, record: &SandboxRecord, member: &str) -> Result<()> {
        let sandbox = self.sandbox(id);
        if sandbox.status().await.runs(member) {
            return Ok(());
        }
        // What it left when it ended.
        sandbox.end_container(member).await?;
        Ok(sandbox.run(&record.member(member)?.container).await?)
    }

    async fn end_member(&self, id: ContainerUuid, member: &str) -> Result<()> {
        Ok(self.sandbox(id).end_container(member).await?)
    }

    async fn wait(&self, id: ContainerUuid, process: &str) -> Result<ContainerExit> {
        Ok(self.sandbox(id).wait(process).await?)
    }

    async fn signal(&self, id: ContainerUuid, process: &str, number: u32) -> Result<()> {
        Ok(self.sandbox(id).signal(process, number).await?)
    }

    async fn pause(&self, id: ContainerUuid) -> Result<()> {
        Ok(self.sandbox(id).pause().await?)
    }

    async fn resume(&self, id: ContainerUuid) -> Result<()> {
        Ok(self.sandbox(id).resume().await?)
    }

    async fn release(&self, id: ContainerUuid) -> Result<()> {
        self.sandbox(id).shut_down().await?;
        if let Ok(record) = self.record(id) {
            networking::unplug(&record.attachments, &id.to_string()).await;
        }
        Ok(())
    }
}

/// Says how long after `began` the sandbox reached each stage of its start.
async fn log_stages(sandbox: &Sandbox, began: SystemTime) {
    if let SandboxStatus::Live(state) = sandbox.status().await {
        let elapsed = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(elapsed.as_micros()).unwrap_or(0);
        let stages: Vec<_> = state
            .stages
            .iter()
            .map(|(stage, at)| format!("{stage:?} {} ms", at.saturating_sub(first) / 1000))
            .collect();
        tracing::info!(sandbox = sandbox.id(), "running: {}", stages.join(", "));
    }
}
