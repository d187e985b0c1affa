//! The seams of the service, in the simulated world.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Changes, Container, ContainerUuid, Record, Unfinished, VolumeMapping};
use oslo::RequestContext;
use sandbox::{ContainerExit, SandboxStatus, VolumeDisk};
use tokio::time::{Instant, sleep};

use super::world::{FakeWorld, Run};
use crate::containers::{Provision, Thoroughness, Volume, Wanted, World};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::lifecycle::{Kind, SIGKILL};
use crate::record::{Member, SandboxRecord};
use crate::rows::Rows;
use crate::turns::Turn;

pub const HOST: &str = "host";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Within what time a process ends that ends by itself.
const LIFE_MAX: Duration = Duration::from_secs(600);

impl World for FakeWorld {
    type Rows = Self;
    type Engine = Self;
    type Provision = Self;
}

impl Rows for FakeWorld {
    async fn find(&self, uuid: ContainerUuid) -> Result<Option<Container>> {
        self.call(|state| state.rows.get(&uuid).cloned()).await
    }

    async fn list(&self) -> Result<Vec<Container>> {
        self.list_on(HOST).await
    }

    async fn list_on(&self, host: &str) -> Result<Vec<Container>> {
        let host = host.to_owned();
        let of_it = move |row: &&Container| row.host.as_ref() == Some(&host);
        self.call(|state| state.rows.values().filter(of_it).cloned().collect()).await
    }

    async fn unfinished(&self, uuids: &[ContainerUuid]) -> Result<Vec<Unfinished>> {
        let of_them = |one: &Unfinished| uuids.contains(&one.container);
        self.call(|state| state.unfinished().into_iter().filter(of_them).collect()).await
    }

    async fn hosts_of(&self, uuids: &[ContainerUuid]) -> Result<BTreeMap<ContainerUuid, Option<String>>> {
        self.call(|state| {
            uuids.iter().filter_map(|uuid| Some((*uuid, state.rows.get(uuid)?.host.clone()))).collect()
        })
        .await
    }

    async fn is_served(&self, host: &str) -> Result<bool> {
        self.call(|state| state.served.contains(host)).await
    }

    async fn members(&self, _: &Container) -> Result<Vec<Container>> {
        Ok(Vec::new())
    }

    async fn save(&self, container: &mut Container, changes: Changes) -> Result<()> {
        let uuid = container.uuid;
        let found = self.call(|state| {
            state.saves += 1;
            let row = state.rows.get_mut(&uuid);
            row.map(|row| changes.clone().apply(row))
        });
        found.await?.ok_or(Error::Database(model::Error::NoContainer(uuid)))?;
        changes.apply(container);
        Ok(())
    }

    async fn destroy(&self, container: &Container) -> Result<()> {
        self.call(|state| {
            state.rows.remove(&container.uuid);
        })
        .await
    }

    async fn volumes(&self, _: ContainerUuid) -> Result<Vec<VolumeMapping>> {
        Ok(Vec::new())
    }

    fn record(&self, record: Record) {
        if !self.is_over() && !record.request_id.is_empty() {
            self.state().records.push(record);
        }
    }
}

impl Engine for FakeWorld {
    fn record(&self, id: ContainerUuid) -> Result<SandboxRecord> {
        let state = self.state();
        state.sandboxes.get(&id).and_then(|sandbox| sandbox.record.clone()).ok_or(Error::Lost(id))
    }

    fn find_record(&self, id: ContainerUuid) -> Result<Option<SandboxRecord>> {
        Ok(self.state().sandboxes.get(&id).and_then(|sandbox| sandbox.record.clone()))
    }

    fn write_record(&self, id: ContainerUuid, record: &SandboxRecord) -> Result<()> {
        if self.is_over() {
            return Err(Error::Lost(id));
        }
        match self.state().sandboxes.get_mut(&id) {
            Some(sandbox) => sandbox.record = Some(record.clone()),
            None => return Err(Error::Lost(id)),
        }
        Ok(())
    }

    fn survey(&self) -> Result<BTreeMap<ContainerUuid, SandboxStatus>> {
        let mut state = self.state();
        let all: Vec<_> = state.sandboxes.keys().copied().collect();
        Ok(all.into_iter().map(|uuid| (uuid, state.status(uuid))).collect())
    }

    async fn status(&self, id: ContainerUuid) -> SandboxStatus {
        if self.state().is_silent(id) {
            sleep(ANSWER_TIMEOUT).await;
            self.unless_over().await;
            return SandboxStatus::Unanswered;
        }
        sleep(self.pause(Duration::from_millis(5))).await;
        self.unless_over().await;
        self.state().status(id)
    }

    async fn glance(&self, id: ContainerUuid) -> SandboxStatus {
        self.status(id).await
    }

    async fn start(&self, id: ContainerUuid, _: &SandboxRecord, _: Vec<VolumeDisk>, _: &Turn) -> Result<()> {
        sleep(self.pause(Duration::from_secs(2))).await;
        self.call(|state| {
            let ends = state.random.happens(state.ends).then(|| {
                let status = i32::from(state.random.happens(500));
                (Instant::now() + state.random.duration(LIFE_MAX), status)
            });
            let ignores_term = state.random.happens(100);
            if let Some(sandbox) = state.sandboxes.get_mut(&id) {
                sandbox.run = Some(Run { is_paused: false, ends, ignores_term });
            }
        })
        .await
        .inspect_err(|_| self.state().kill(id))
    }

    async fn run_member(&self, _: ContainerUuid, _: &SandboxRecord, _: &str) -> Result<()> {
        Ok(())
    }

    async fn end_member(&self, _: ContainerUuid, _: &str) -> Result<()> {
        Ok(())
    }

    async fn wait(&self, id: ContainerUuid, process: &str) -> Result<ContainerExit> {
        loop {
            self.unless_over().await;
            match self.state().status(id) {
                SandboxStatus::Over(state) => {
                    let exit = state.containers.get(process).cloned().flatten();
                    return exit.ok_or(Error::Lost(id));
                }
                SandboxStatus::Absent => return Err(Error::Lost(id)),
                SandboxStatus::Live(_) | SandboxStatus::Unanswered => {}
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn signal(&self, id: ContainerUuid, _: &str, number: u32) -> Result<()> {
        if self.state().is_silent(id) {
            sleep(Duration::from_secs(30)).await;
            self.unless_over().await;
            return Err(Error::Conflict("the shim is silent".into()));
        }
        let sent = self.call(|state| {
            let pause = state.random.duration(Duration::from_secs(8));
            let run = state.sandboxes.get_mut(&id).and_then(|sandbox| sandbox.run.as_mut());
            let Some(run) = run else { return Err(Error::Lost(id)) };
            if number == SIGKILL {
                state.kill(id);
            } else if !run.ignores_term {
                run.ends = Some((Instant::now() + pause, 143));
            }
            Ok(())
        });
        sent.await?
    }

    async fn pause(&self, id: ContainerUuid) -> Result<()> {
        self.stand_still(id, true).await
    }

    async fn resume(&self, id: ContainerUuid) -> Result<()> {
        self.stand_still(id, false).await
    }

    async fn release(&self, id: ContainerUuid) -> Result<()> {
        sleep(FakeWorld::pause(self, Duration::from_secs(1))).await;
        self.unless_over().await;
        self.state().kill(id);
        Ok(())
    }
}

impl FakeWorld {
    async fn stand_still(&self, id: ContainerUuid, stands: bool) -> Result<()> {
        let changed = self.call(|state| {
            state.let_time_pass(id);
            let run = state.sandboxes.get_mut(&id).and_then(|sandbox| sandbox.run.as_mut());
            run.map(|run| run.is_paused = stands)
        });
        changed.await?.ok_or(Error::Lost(id))
    }

    /// What this host keeps of a container.
    pub fn new_record(row: &Container) -> SandboxRecord {
        let member: Member = serde_json::from_value(serde_json::json!({
            "container": {
                "id": row.uuid.to_string(), "arguments": ["sh"], "environment": [], "directory": "/",
                "user": { "user": "0", "group": "" }, "hostname": "h", "cpus": 1.0, "memory_mib": 128,
                "terminal": false, "interactive": false, "image": "/i", "volumes": [], "shares": [],
                "disk_limit": { "bytes": 0, "burst_bytes": 0, "operations": 0, "burst_operations": 0 },
                "privileged": false, "oci": null,
            },
            "image_source": null, "stop_signal": 15, "restarts": { "all": 0, "in_a_row": 0 }, "files": [],
        }))
        .unwrap();
        let record = SandboxRecord::of_container("p".into(), member);
        assert_eq!(record.kind, Kind::Container);
        record
    }

    /// A creation has come to its end.
    pub async fn forget_creation(&self, uuid: ContainerUuid) {
        self.unless_over().await;
        self.state().taken.remove(&uuid);
    }

    /// Gives back what a deleted container has left, as the service does from time to time.
    pub async fn pay_debts(&self) {
        let debts: Vec<_> = self.state().debts.iter().copied().collect();
        for uuid in debts {
            let has_host = |row: &Container| row.host.is_some();
            if self.state().rows.get(&uuid).is_some_and(has_host) {
                continue;
            }
            if self.give_back(uuid).await.is_ok() {
                self.state().debts.remove(&uuid);
            }
        }
    }

    async fn give_back(&self, uuid: ContainerUuid) -> Result<()> {
        self.release(uuid).await?;
        let ports = self.call(|state| state.ports.remove(&uuid)).await.map(drop);
        let allocation = self.call(|state| state.allocations.remove(&uuid)).await.map(drop);
        // A sandbox names its ports, and stays while they do.
        let sandbox = match ports {
            Ok(()) => self.call(|state| state.sandboxes.remove(&uuid)).await.map(drop),
            Err(_) => Ok(()),
        };
        ports.and(allocation).and(sandbox)
    }
}

impl Provision for FakeWorld {
    type Health = Health;

    async fn accept(&self, _: &[Volume]) -> Result<()> {
        Ok(())
    }

    async fn claim(&self, row: &mut Container, changes: Changes) -> Result<()> {
        let host = Changes { host: Some(Some(HOST.into())), ..changes };
        self.save(row, host).await
    }

    async fn make(&self, _: &Wanted, row: &mut Container, turn: &Turn) -> Result<Changes> {
        let uuid = row.uuid;
        tokio::select! {
            biased;
            () = sleep(FakeWorld::pause(self, Duration::from_secs(30))) => self.unless_over().await,
            () = turn.hurried() => return Err(Error::GivenUp { subject: "a pull" }),
        }
        self.call(|state| state.allocations.insert(uuid)).await?;
        self.call(|state| state.ports.insert(uuid)).await?;
        let record = Self::new_record(row);
        self.call(|state| state.sandboxes.entry(uuid).or_default().record = Some(record)).await?;
        let made = Changes::status(model::Status::Created);
        Ok(Changes { container_id: Some(Some(uuid.to_string())), ..made })
    }

    async fn remake(&self, _: &RequestContext, row: &mut Container, _: &Turn) -> Result<Changes> {
        let uuid = row.uuid;
        sleep(FakeWorld::pause(self, Duration::from_secs(10))).await;
        self.release(uuid).await?;
        let record = Self::new_record(row);
        self.call(|state| {
            let sandbox = state.sandboxes.entry(uuid).or_default();
            (sandbox.record, sandbox.last) = (Some(record), None);
        })
        .await?;
        Ok(Changes { container_id: Some(Some(uuid.to_string())), ..Changes::status(model::Status::Created) })
    }

    async fn unmake(&self, row: &Container, _: &[i32], thoroughness: Thoroughness) -> Result<()> {
        match thoroughness {
            Thoroughness::All => self.give_back(row.uuid).await,
            Thoroughness::Debts => {
                // The volumes of its row are asked for first.
                self.call(|_| ()).await?;
                if self.give_back(row.uuid).await.is_err() {
                    self.unless_over().await;
                    self.state().debts.insert(row.uuid);
                }
                Ok(())
            }
        }
    }

    async fn give_back_unbegun(&self, uuid: ContainerUuid, _: &[i32]) -> Result<()> {
        self.call(|_| ()).await?;
        if self.call(|state| state.allocations.remove(&uuid)).await.is_err() {
            self.unless_over().await;
            self.state().debts.insert(uuid);
        }
        Ok(())
    }

    async fn disks(&self, _: &Container, _: &SandboxRecord) -> Result<Vec<VolumeDisk>> {
        Ok(Vec::new())
    }

    async fn mend_networks(&self, _: &Container) -> Result<Changes> {
        Ok(Changes::default())
    }

    async fn take_over(&self, row: &mut Container) -> Result<()> {
        self.save(row, Changes { host: Some(Some(HOST.into())), ..Changes::default() }).await
    }

    async fn accompany(&self, _: &Container) {
        std::future::pending().await
    }

    fn health(&self, _: ContainerUuid) -> Option<Health> {
        None
    }
}
