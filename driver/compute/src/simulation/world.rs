//! The world that the fakes share: rows, sandboxes, and what Neutron and Placement would have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::{Container, ContainerUuid, Record, Recorded, Unfinished};
use sandbox::{ContainerExit, Phase, SandboxState, SandboxStatus, Stage};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::random::Random;
use crate::error::{Error, Result};
use crate::record::SandboxRecord;

/// Longest time that a call to somebody else takes in the simulated world.
const CALL_MAX: Duration = Duration::from_millis(200);
/// Docker's status of a process that was killed.
const KILLED: i32 = 137;
/// How long a guest takes to end after its process.
const ENDING: Duration = Duration::from_secs(2);

/// A sandbox of the simulated host. It outlives the service.
#[derive(Debug, Default)]
pub struct FakeSandbox {
    pub record: Option<SandboxRecord>,
    pub run: Option<Run>,
    pub last: Option<SandboxState>,
    /// Until then its shim does not answer.
    pub silent_until: Option<Instant>,
    /// Until then its guest ends, whose process has ended.
    pub ending_until: Option<Instant>,
}

/// A guest that is up.
#[derive(Debug, Clone)]
pub struct Run {
    pub is_paused: bool,
    /// When its process ends, and how.
    pub ends: Option<(Instant, i32)>,
    pub ignores_term: bool,
}

/// All there is.
#[derive(Debug)]
pub struct State {
    pub random: Random,
    /// How often, of a thousand calls, one goes wrong.
    pub trouble: u64,
    /// How many of a thousand processes end by themselves.
    pub ends: u64,
    /// How many of a thousand creations the service does not take.
    pub refused: u64,
    /// Counts the lives of the service: calls of a life that is over never return.
    pub life: u64,
    pub rows: BTreeMap<ContainerUuid, Container>,
    pub sandboxes: BTreeMap<ContainerUuid, FakeSandbox>,
    pub ports: BTreeSet<ContainerUuid>,
    pub allocations: BTreeSet<ContainerUuid>,
    pub debts: BTreeSet<ContainerUuid>,
    /// Creations that the service has taken and not brought to an end.
    pub taken: BTreeSet<ContainerUuid>,
    pub records: Vec<Record>,
    /// What has been asked for, as Zun's API records it.
    pub asked: Vec<Unfinished>,
    /// Other hosts whose services are up.
    pub served: BTreeSet<String>,
    /// How often a row was written.
    pub saves: u64,
}

/// A life of the service in the world.
#[derive(Debug, Clone)]
pub struct FakeWorld {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl FakeWorld {
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            trouble: 0,
            ends: 0,
            refused: 0,
            life: 0,
            rows: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            ports: BTreeSet::new(),
            allocations: BTreeSet::new(),
            debts: BTreeSet::new(),
            taken: BTreeSet::new(),
            records: Vec::new(),
            asked: Vec::new(),
            served: BTreeSet::new(),
            saves: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The service dies. What this life of it awaits never comes; the world goes on.
    pub fn next_life(&self) -> Self {
        let mut state = self.state();
        state.life += 1;
        Self { state: Arc::clone(&self.state), life: state.life }
    }

    pub fn is_over(&self) -> bool {
        self.state().life != self.life
    }

    /// A call to somebody else: it takes its time, may fail before it does anything, and may be cut short by the service's death
    /// before or after.
    pub async fn call<T>(&self, effect: impl FnOnce(&mut State) -> T) -> Result<T> {
        let (pause, fails, loses) = {
            let mut state = self.state();
            let trouble = state.trouble;
            (state.random.duration(CALL_MAX), state.random.happens(trouble), state.random.happens(trouble))
        };
        sleep(pause).await;
        self.unless_over().await;
        if fails {
            return Err(Error::Database(model::Error::Timeout));
        }
        let done = effect(&mut self.state());
        self.unless_over().await;
        if loses { Err(Error::Database(model::Error::Timeout)) } else { Ok(done) }
    }

    /// Never returns in a life that is over.
    pub async fn unless_over(&self) {
        if self.is_over() {
            std::future::pending().await
        }
    }

    pub fn pause(&self, most: Duration) -> Duration {
        self.state().random.duration(most)
    }
}

impl State {
    /// What was asked of containers that have rows, and has been told no end.
    pub fn unfinished(&self) -> Vec<Unfinished> {
        self.open().into_iter().filter(|one| !one.event.is_empty()).collect()
    }

    /// The same, and what has not been begun.
    pub fn open(&self) -> Vec<Unfinished> {
        let told = |wanted: &Unfinished, is_end: fn(&Recorded) -> bool| {
            let is_told = |record: &&Record| {
                record.container == wanted.container && record.request_id == wanted.request_id
            };
            self.records.iter().filter(is_told).filter(|record| is_end(&record.what)).count()
        };
        let is_finished = |one: &&Unfinished| told(one, |what| matches!(what, Recorded::Finished(..))) > 0;
        let open =
            self.asked.iter().filter(|one| self.rows.contains_key(&one.container) && !is_finished(one));
        let with_event = |one: &Unfinished| {
            let begun = told(one, |what| matches!(what, Recorded::EventStarted(_)));
            let ended = told(one, |what| matches!(what, Recorded::EventFinished(..)));
            let event = if begun > ended { "event".to_owned() } else { String::new() };
            Unfinished { event, ..one.clone() }
        };
        open.map(with_event).collect()
    }

    /// What has become of a sandbox, by what its shim would say.
    pub fn status(&mut self, uuid: ContainerUuid) -> SandboxStatus {
        self.let_time_pass(uuid);
        let Some(sandbox) = self.sandboxes.get(&uuid) else { return SandboxStatus::Absent };
        let is_ending = sandbox.ending_until.is_some_and(|until| Instant::now() < until);
        match (&sandbox.run, &sandbox.last) {
            (Some(run), _) => SandboxStatus::Live(running(uuid, run.is_paused)),
            (None, Some(last)) if is_ending => {
                SandboxStatus::Live(SandboxState { phase: Phase::Ready, ..last.clone() })
            }
            (None, Some(last)) => SandboxStatus::Over(last.clone()),
            (None, None) => SandboxStatus::Absent,
        }
    }

    pub fn is_silent(&self, uuid: ContainerUuid) -> bool {
        let silent = self.sandboxes.get(&uuid).and_then(|sandbox| sandbox.silent_until);
        silent.is_some_and(|until| Instant::now() < until)
    }

    /// A process whose time has come has ended.
    pub fn let_time_pass(&mut self, uuid: ContainerUuid) {
        let Some(sandbox) = self.sandboxes.get_mut(&uuid) else { return };
        let ended = sandbox.run.as_ref().and_then(|run| run.ends).filter(|(at, _)| *at <= Instant::now());
        if let Some((_, status)) = ended {
            self.end(uuid, status);
        }
    }

    pub fn end(&mut self, uuid: ContainerUuid, status: i32) {
        if let Some(sandbox) = self.sandboxes.get_mut(&uuid)
            && sandbox.run.take().is_some()
        {
            sandbox.last = Some(ended(uuid, status));
            sandbox.ending_until = Some(Instant::now() + ENDING);
        }
    }

    pub fn kill(&mut self, uuid: ContainerUuid) {
        self.end(uuid, KILLED);
        if let Some(sandbox) = self.sandboxes.get_mut(&uuid) {
            sandbox.ending_until = None;
        }
    }
}

fn running(uuid: ContainerUuid, is_paused: bool) -> SandboxState {
    SandboxState {
        phase: if is_paused { Phase::Paused } else { Phase::Ready },
        containers: [(uuid.to_string(), None)].into(),
        from_template: false,
        stages: [(Stage::ProcessRunning, 0)].into(),
    }
}

fn ended(uuid: ContainerUuid, status: i32) -> SandboxState {
    let exit = ContainerExit { status, oom_killed: false, at: OffsetDateTime::UNIX_EPOCH };
    SandboxState {
        phase: Phase::Ended,
        containers: [(uuid.to_string(), Some(exit))].into(),
        from_template: false,
        stages: BTreeMap::new(),
    }
}
