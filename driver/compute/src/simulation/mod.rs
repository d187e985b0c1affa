//! A simulated world: the lives of containers, whole, against fakes of rows, sandboxes and what provides for them, under a paused
//! clock and one seed. Calls take their time, fail, or lose their answers; processes end, shims fall silent, sandboxes are killed
//! or lost, and the service dies between any two calls. `ZUN_KATA_SEED` replays a seed, `ZUN_KATA_STEPS` sets how far it goes.

mod fakes;
mod neighbours;
mod random;
mod scenarios;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::{Container, ContainerUuid, Status, TaskState, Unfinished};
use oslo::RequestContext;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::Instrument;
use uuid::Uuid;

use self::fakes::HOST;
use self::world::FakeWorld;
use crate::containers::{
    Core, CorePolicy, Lifecycle, Recovery, Request, Thoroughness, Wanted, handle_all, inspect, recover,
    refuse_creation, synchronise,
};
use crate::creations::{Creations, Taken};
use crate::error::Error;
use crate::executor::Executor;
use crate::host_names::HostNames;
use crate::lifecycle::Event;

/// Containers of the world.
const CONTAINERS: u64 = 6;
/// Steps of one world; then it comes to rest, and is looked at.
const STEPS_OF_A_WORLD: u64 = 500;
const STEPS: u64 = 100_000;
/// Of a thousand calls, as many go wrong.
const TROUBLE: u64 = 30;
/// Whoever looks waits no longer than for a shim that does not answer.
const SHOW_MAX: Duration = Duration::from_secs(6);
/// How long the world may take to come to rest once nothing goes wrong any more.
const REST_MAX: Duration = Duration::from_secs(4 * 3600);
/// A user's patience without an end: only a kill or a deletion cuts it short.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

/// How many of a thousand processes end by themselves.
const ENDS: u64 = 300;
/// How many of a thousand creations the service does not take.
const REFUSED: u64 = 50;

/// A service in the simulated world.
struct Simulation {
    world: FakeWorld,
    core: Arc<Core<FakeWorld>>,
    under_way: JoinSet<()>,
    /// What is taken is remembered by the world; this has the places of those that are refused.
    creations: Creations,
    requests: u64,
    /// Which container has each place; one that is deleted makes room for another.
    places: Vec<ContainerUuid>,
}

impl Simulation {
    async fn start(world: FakeWorld) -> Self {
        let (happened, happenings) = mpsc::unbounded_channel();
        let policy = CorePolicy { resumes: false, stop_timeout: Duration::from_secs(10) };
        let executor = Executor::new(world.clone());
        let core = Arc::new(Core::new(executor, world.clone(), world.clone(), happened, policy));
        tokio::spawn(handle_all(Arc::clone(&core), happenings));
        let names = HostNames { now: HOST.into(), former: BTreeSet::new() };
        let recovery = loop {
            match Recovery::begin(&core, &names).await {
                Ok(recovery) => break recovery,
                Err(_) => sleep(Duration::from_secs(1)).await,
            }
        };
        tokio::spawn(recover(Arc::clone(&core), recovery));
        let under_way = JoinSet::new();
        let folder = tempfile::tempdir().unwrap();
        let creations = Creations::open(folder.path().to_owned()).unwrap();
        let places = (0..CONTAINERS).map(uuid).collect();
        Self { world, core, under_way, creations, requests: 0, places }
    }

    /// The service dies and is started again.
    async fn die(&mut self) {
        let next = self.world.next_life();
        let (requests, places) = (self.requests, std::mem::take(&mut self.places));
        // What it had taken and not begun is lost with it.
        let begun: BTreeSet<_> =
            self.world.state().unfinished().into_iter().map(|one| one.request_id).collect();
        self.world.state().asked.retain(|one| begun.contains(&one.request_id));
        std::mem::replace(&mut self.under_way, JoinSet::new()).detach_all();
        *self = Self { requests, places, ..Self::start(next).await };
        let lost: Vec<_> = self.world.state().taken.iter().copied().collect();
        for uuid in lost {
            self.refuse_creation(uuid, "interrupted");
        }
    }

    /// Refuses a creation whose message could not be taken, or was lost.
    fn refuse_creation(&mut self, uuid: ContainerUuid, reason: &'static str) {
        let (core, creations) = (Arc::clone(&self.core), self.creations.clone());
        let work = async move {
            let taken = Taken { uuid, project: "p".into(), volumes: Vec::new() };
            refuse_creation(&core, &creations, &taken, reason).await;
            core.engine.forget_creation(uuid).await;
        };
        self.under_way.spawn(work.instrument(tracing::info_span!("container", %uuid)));
    }

    fn random(&self, bound: u64) -> u64 {
        self.world.state().random.below(bound)
    }

    fn some_container(&self) -> ContainerUuid {
        self.places[self.random(CONTAINERS) as usize]
    }

    async fn step(&mut self) {
        match self.random(100) {
            0..60 => self.ask(),
            60..75 => sleep(Duration::from_millis(self.random(30_000))).await,
            75..82 => drop(synchronise(&self.core).await),
            82..92 => self.look().await,
            92..94 => self.fall_silent(),
            94..96 => {
                let uuid = self.some_container();
                self.world.state().kill(uuid);
            }
            96 => self.world.pay_debts().await,
            97 if self.random(4) == 0 => {
                let uuid = self.some_container();
                self.world.state().sandboxes.remove(&uuid);
            }
            98 if self.random(3) == 0 => self.die().await,
            _ => tokio::task::yield_now().await,
        }
        while self.under_way.try_join_next().is_some() {}
    }

    fn fall_silent(&self) {
        let uuid = self.some_container();
        let mut state = self.world.state();
        let until = Instant::now() + state.random.duration(Duration::from_secs(120));
        if let Some(sandbox) = state.sandboxes.get_mut(&uuid) {
            sandbox.silent_until = Some(until);
        }
    }

    /// Somebody looks at a container, whatever is done to it.
    async fn look(&self) {
        let uuid = self.some_container();
        let Some(row) = self.world.state().rows.get(&uuid).cloned() else { return };
        let began = Instant::now();
        let shown = inspect::show(&self.core, row).await.unwrap();
        assert!(began.elapsed() <= SHOW_MAX, "show took {:?}", began.elapsed());
        assert_ne!(shown.status, Status::Dead);
        if shown.task() == Some(TaskState::ContainerDeleting) {
            assert_eq!(shown.status, Status::Deleting, "so that nothing else is asked of it");
        }
    }

    /// Somebody asks something of a container that Zun's API would let through.
    fn ask(&mut self) {
        let place = self.random(CONTAINERS) as usize;
        let mut uuid = self.places[place];
        let row = self.world.state().rows.get(&uuid).cloned();
        let what = match row {
            None => {
                self.requests += 1;
                uuid = self::uuid(CONTAINERS + self.requests);
                self.places[place] = uuid;
                self.new_container(uuid)
            }
            Some(row) => match self.allowed(&row) {
                Some(what) => what,
                None => return,
            },
        };
        self.submit(uuid, what);
    }

    fn new_container(&self, uuid: ContainerUuid) -> Lifecycle {
        let (auto_remove, auto_heal, restarts) =
            (self.random(6) == 0, self.random(4) == 0, self.random(3) == 0);
        let row = row(uuid, auto_remove, auto_heal, restarts && !auto_remove);
        {
            // As Zun's API and its scheduler do before they ask.
            let mut state = self.world.state();
            state.rows.insert(uuid, row.clone());
            state.allocations.insert(uuid);
        }
        Lifecycle::Create {
            row: Box::new(row),
            wanted: Box::new(Wanted::default()),
            run: self.random(2) == 0,
        }
    }

    /// What `zun/common/utils.py`, `VALID_STATES` allows.
    fn allowed(&self, row: &Container) -> Option<Lifecycle> {
        let grace = match self.random(8) {
            0 => FOR_EVER,
            _ => Duration::from_secs(self.random(20)),
        };
        let what = match self.random(9) {
            0 => Lifecycle::Start,
            1 => Lifecycle::Stop { grace },
            2 => Lifecycle::Kill { signal: if self.random(2) == 0 { 9 } else { 15 } },
            3 => Lifecycle::Reboot { grace: Duration::from_secs(self.random(20)) },
            4 => Lifecycle::Rebuild { run: self.random(2) == 0 },
            5 => Lifecycle::Pause,
            6 => Lifecycle::Unpause,
            7 => Lifecycle::Delete(Thoroughness::All),
            _ => Lifecycle::Delete(Thoroughness::Debts),
        };
        if row.host.is_none() && matches!(what, Lifecycle::Delete(_)) {
            // Zun's API removes the row of a container that no host has.
            self.world.state().rows.remove(&row.uuid);
            return None;
        }
        let states: &[Status] = match &what {
            Lifecycle::Start => &[Status::Created, Status::Stopped, Status::Error],
            Lifecycle::Stop { .. } | Lifecycle::Kill { .. } | Lifecycle::Pause => &[Status::Running],
            Lifecycle::Unpause => &[Status::Paused],
            Lifecycle::Reboot { .. } | Lifecycle::Rebuild { .. } => {
                &[Status::Created, Status::Running, Status::Stopped, Status::Error]
            }
            Lifecycle::Delete(Thoroughness::All) => &[Status::Created, Status::Error, Status::Stopped],
            Lifecycle::Delete(Thoroughness::Debts) => &[
                Status::Created,
                Status::Creating,
                Status::Error,
                Status::Running,
                Status::Stopped,
                Status::Restarting,
                Status::Deleting,
            ],
            Lifecycle::Create { .. } => &[],
        };
        states.contains(&row.status).then_some(what)
    }

    fn submit(&mut self, uuid: ContainerUuid, what: Lifecycle) {
        if let (Lifecycle::Rebuild { .. }, Some(row)) = (&what, self.world.state().rows.get_mut(&uuid)) {
            // As Zun's API does before it asks.
            row.status = Status::Rebuilding;
        }
        self.requests += 1;
        let id = format!("req-{}", self.requests);
        let mut context = RequestContext::default();
        context.request_id = Some(id.clone());
        let action = what.action();
        let asked = Unfinished {
            container: uuid,
            request_id: id.clone(),
            action: action.to_owned(),
            event: String::new(),
            started: None,
        };
        self.world.state().asked.push(asked);
        let is_creation = matches!(what, Lifecycle::Create { .. });
        if is_creation {
            self.world.state().taken.insert(uuid);
            let refused = self.world.state().refused;
            if self.random(1000) < refused {
                let error = Error::TooMany { project: "p".into(), what: "operations" };
                self.core.executor.refuse(&id, uuid, action, &error);
                return self.refuse_creation(uuid, "too many");
            }
        }
        match self.core.turns.enter(uuid, what.urgency()) {
            Err(full) => {
                self.core.executor.refuse(&id, uuid, action, &full.into());
                self.core.tell(uuid, Event::Looked);
            }
            Ok(ticket) => {
                let core = Arc::clone(&self.core);
                let work = async move {
                    let turn = ticket.turn().await;
                    if let Err(e) = (Request { context, uuid, what }).perform(&core, turn).await {
                        core.executor.finish::<()>(&id, uuid, action, &Err(e));
                    }
                    if is_creation {
                        core.engine.forget_creation(uuid).await;
                    }
                };
                self.under_way.spawn(work.instrument(tracing::info_span!("container", %uuid)));
            }
        }
    }

    /// Nothing goes wrong any more: the world comes to rest.
    async fn rest(&mut self, seed: u64) {
        self.world.state().trouble = 0;
        let began = Instant::now();
        loop {
            sleep(Duration::from_secs(30)).await;
            // Whoever waits for ever is cut short.
            for uuid in self.busy() {
                self.submit(uuid, Lifecycle::Kill { signal: 9 });
            }
            let _ = synchronise(&self.core).await;
            self.world.pay_debts().await;
            while self.under_way.try_join_next().is_some() {}
            if self.under_way.is_empty() && self.busy().is_empty() && self.unsettled().is_empty() {
                return;
            }
            let left = began.elapsed() < REST_MAX;
            assert!(
                left,
                "seed {seed}: it does not come to rest: busy {:?}, {:?}",
                self.busy(),
                self.unsettled()
            );
        }
    }

    fn busy(&self) -> Vec<ContainerUuid> {
        let busy = |uuid: &ContainerUuid| self.core.turns.if_idle(*uuid).is_none();
        self.everybody().into_iter().filter(busy).collect()
    }

    /// All that there is anything of.
    fn everybody(&self) -> BTreeSet<ContainerUuid> {
        let state = self.world.state();
        let all =
            state.rows.keys().chain(state.sandboxes.keys()).chain(&state.ports).chain(&state.allocations);
        all.copied().collect()
    }

    /// What is not as it should be once nothing goes on, in words.
    fn unsettled(&self) -> Vec<String> {
        let everybody = self.everybody();
        let mut state = self.world.state();
        let mut wrong = Vec::new();
        for uuid in everybody {
            let runs = state.status(uuid).may_live();
            let has = (
                state.sandboxes.contains_key(&uuid),
                state.ports.contains(&uuid),
                state.allocations.contains(&uuid),
            );
            match state.rows.get(&uuid) {
                None if has != (false, false, false) => wrong.push(format!("{uuid} has no row, and {has:?}")),
                None => {}
                Some(row) if row.task_state.is_some() => {
                    wrong.push(format!("{uuid} has task {:?}", row.task_state));
                }
                Some(row) => {
                    let all = (true, true, true);
                    let is_right = match row.status {
                        Status::Running | Status::Paused => runs && has == all && row.host.is_some(),
                        Status::Created | Status::Stopped => !runs && has == all && row.host.is_some(),
                        // What no host is asked to delete must have nothing.
                        Status::Error => !runs && (row.host.is_some() || has == (false, false, false)),
                        Status::Restarting => true,
                        // Its message was lost with a life of the service: no host has it, and its user may delete it.
                        Status::Rebuilding => row.host.is_none() && has == (false, false, false),
                        _ => false,
                    };
                    if !is_right {
                        wrong.push(format!("{uuid} is {}, runs: {runs}, has {has:?}", row.status));
                    }
                }
            }
        }
        wrong
    }

    /// Each request has been told an end, unless its container is gone, or no host has it.
    fn unanswered(&self) -> Vec<Unfinished> {
        let state = self.world.state();
        let is_on_a_host = |one: &Unfinished| state.rows[&one.container].host.is_some();
        state.open().into_iter().filter(is_on_a_host).collect()
    }
}

fn uuid(number: u64) -> ContainerUuid {
    ContainerUuid(Uuid::from_u128(u128::from(number) + 1))
}

fn row(uuid: ContainerUuid, auto_remove: bool, auto_heal: bool, restarts: bool) -> Container {
    let captured = include_str!("../../../model/tests/container.json");
    let mut value: Value = serde_json::from_str(captured).unwrap();
    let data = &mut value["zun_object.data"];
    data["uuid"] = json!(uuid.to_string());
    data["auto_remove"] = json!(auto_remove);
    data["auto_heal"] = json!(auto_heal);
    data["host"] = Value::Null;
    data["created_at"] = Value::Null;
    if restarts {
        data["restart_policy"] = json!({ "Name": "always", "MaximumRetryCount": "0" });
    }
    Container::from_wire(&value).unwrap()
}

async fn live_through(seed: u64, steps: u64) {
    let world = FakeWorld::new(seed);
    {
        let mut state = world.state();
        (state.trouble, state.ends, state.refused) = (TROUBLE, ENDS, REFUSED);
    }
    let mut simulation = Simulation::start(world).await;
    for _ in 0..steps {
        simulation.step().await;
    }
    simulation.rest(seed).await;
    let unanswered = simulation.unanswered();
    assert!(unanswered.is_empty(), "seed {seed}: no end was told of {unanswered:?}");
}

fn run(seed: u64, steps: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(live_through(seed, steps));
}

impl Simulation {
    /// Asks for a container that runs, without anything else about it.
    fn creation(&self, uuid: ContainerUuid) -> Lifecycle {
        let row = row(uuid, false, false, false);
        self.world.state().rows.insert(uuid, row.clone());
        Lifecycle::Create { row: Box::new(row), wanted: Box::new(Wanted::default()), run: true }
    }

    async fn wait_for(&self, uuid: ContainerUuid, status: Status) {
        while self.world.state().rows.get(&uuid).is_none_or(|row| row.status != status) {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn whatever_happens_ends_in_a_state_that_is_allowed_and_leaves_nothing() {
    let given = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = given("ZUN_KATA_SEED") {
        // Whoever replays a seed wants to read what the service says.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_test_writer().try_init();
        return run(seed, STEPS_OF_A_WORLD);
    }
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = began.as_millis() as u64;
    let worlds = given("ZUN_KATA_STEPS").unwrap_or(STEPS) / STEPS_OF_A_WORLD;
    for seed in first..first + worlds {
        println!("seed {seed}");
        run(seed, STEPS_OF_A_WORLD);
    }
}
