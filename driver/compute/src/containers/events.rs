//! What happens without being asked for: each event is decided upon in its container's turn, and carried out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Changes, Container, ContainerUuid, Status, TaskState};
use oslo::RequestContext;
use sandbox::SandboxStatus;
use time::OffsetDateTime;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::Instrument;

use super::core::{Core, World, background_span, restarting, running};
use super::patience::until_answered;
use super::provision::{Provision, Thoroughness};
use super::rebuild::rebuild;
use super::start::{bring_up, start, start_again};
use super::stop::{begun_signal, kill, pause, reboot, stop, unpause};
use super::{capsule, create, delete};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::executor::NOBODY;
use crate::lifecycle::{AfterEnd, Decision, Event, Observed, decide};
use crate::rows::Rows;
use crate::turns::Turn;

/// Between two looks at a capsule whose sandbox does not answer.
const ANSWER_PAUSE: Duration = Duration::from_secs(30);

/// Handles events as they are told, each beside the others, until nobody can tell any more.
pub async fn handle_all<W: World>(
    core: Arc<Core<W>>,
    mut happened: UnboundedReceiver<(ContainerUuid, Event)>,
) {
    let waiting = Arc::new(Mutex::new(HashSet::new()));
    while let Some((uuid, event)) = happened.recv().await {
        // What has happened twice before anybody could look has happened once.
        if !locked(&waiting).insert((uuid, event)) {
            continue;
        }
        let (core, waiting) = (Arc::clone(&core), Arc::clone(&waiting));
        let span = background_span(uuid);
        let handle = async move {
            let turn = core.turns.internal(uuid).await;
            locked(&waiting).remove(&(uuid, event));
            handle(&core, uuid, event, turn).await;
        };
        tokio::spawn(handle.instrument(span));
    }
}

type Waiting = HashSet<(ContainerUuid, Event)>;

fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles an event in its container's turn.
pub async fn handle<W: World>(core: &Arc<Core<W>>, uuid: ContainerUuid, event: Event, turn: Turn) {
    if let Err(e) = decide_and_do(core, uuid, event, turn).await {
        tracing::error!(?event, error = %e, "what has happened could not be followed");
    }
}

async fn decide_and_do<W: World>(
    core: &Arc<Core<W>>,
    uuid: ContainerUuid,
    event: Event,
    turn: Turn,
) -> Result<()> {
    let found = until_answered(|| core.executor.rows().find(uuid)).await?;
    let Some(row) = found else { return Ok(()) };
    let status = core.engine.status(uuid).await;
    let (observed, decision) = decide_upon(core, &row, &status, event)?;
    Box::pin(follow(core, row, &observed, decision, turn)).await
}

/// What is seen of a container whose sandbox has come to `status`, and what to do.
pub fn decide_upon<W: World>(
    core: &Core<W>,
    row: &Container,
    status: &SandboxStatus,
    event: Event,
) -> Result<(Observed, Decision)> {
    let mut observed = core.observed(row.uuid, status);
    if let (true, Observed::Ended(end)) = (row.is_capsule(), &mut observed) {
        // A capsule has no process of its own whose time would be known.
        end.ran = capsule::ran(row.started_at, OffsetDateTime::now_utc());
    }
    let decision = decide(&core.facts(row)?, &observed, event);
    if decision != Decision::Keep {
        tracing::info!(?event, status = %row.status, ?decision, "decided");
    }
    Ok((observed, decision))
}

/// Carries a decision out, in the container's turn.
pub async fn follow<W: World>(
    core: &Arc<Core<W>>,
    mut row: Container,
    observed: &Observed,
    decision: Decision,
    turn: Turn,
) -> Result<()> {
    match decision {
        Decision::Keep => Ok(()),
        Decision::Adopt => adopt(core, row, observed, turn).await,
        Decision::AbandonCreate => {
            create::abandon(core, &mut row).await;
            Ok(())
        }
        Decision::Resume(task) => Box::pin(resume(core, row, task, turn)).await,
        Decision::Start if row.is_capsule() => start_capsule_again(core, row, turn).await,
        Decision::Start => start_again(core, row, &turn).await,
        Decision::StartLater(restarts) => {
            core.tell_later(row.uuid, Event::RestartDue(restarts.all), restarts.pause());
            Ok(())
        }
        Decision::Release => core.engine.release(row.uuid).await,
        Decision::RecordEnd(after) => record_end(core, row, after).await,
        Decision::Heal { run } => {
            tracing::warn!("this host has nothing of a container that heals: it is rebuilt");
            rebuild(core, &nobody_of(&row), row, run, &turn).await
        }
        Decision::MarkLost => {
            let lost = Error::Lost(row.uuid).to_string();
            let changes = Changes { status_detail: Some(None), ..Changes::error(lost) };
            core.executor.write(&mut row, Changes::task(None).after(changes)).await;
            Ok(())
        }
        Decision::Remove => delete::delete(core, NOBODY, row, Thoroughness::Debts).await,
    }
}

/// Work that nobody asks for, on what is a project's.
fn nobody_of(row: &Container) -> RequestContext {
    let mut context = RequestContext::default();
    context.project_id = row.project_id.clone();
    context
}

/// The row says what is seen; what runs is watched.
async fn adopt<W: World>(
    core: &Arc<Core<W>>,
    mut row: Container,
    observed: &Observed,
    turn: Turn,
) -> Result<()> {
    let uuid = row.uuid;
    let seen = if row.is_capsule() && matches!(observed, Observed::Running { .. }) {
        Changes { status_detail: Some(None), ..Changes::status(Status::Running) }
    } else {
        core.view(uuid, observed)
    };
    let seen = if row.container_id.is_some() {
        seen
    } else {
        Changes { container_id: Some(Some(uuid.to_string())), ..seen }
    };
    if seen.differ_from(&row) || row.task_state.is_some() || row.container_id.is_none() {
        core.executor.write(&mut row, Changes::task(None).after(seen)).await;
    }
    if !observed.may_run() {
        return Ok(());
    }
    match (row.is_capsule(), observed) {
        (false, _) => core.watch(&row),
        (true, Observed::Unanswered) => core.tell_later(uuid, Event::ServiceStarted, ANSWER_PAUSE),
        (true, _) => {
            drop(turn);
            go_on(core, uuid).await;
        }
    }
    Ok(())
}

/// Runs what does not run yet of a capsule whose sandbox is up.
async fn go_on<W: World>(core: &Arc<Core<W>>, capsule: ContainerUuid) {
    if let Err(e) = capsule::run_members(core, capsule).await {
        if let Error::InitFailed { .. } | Error::InitTimeout(_) = e {
            return capsule::fail(core, capsule, &e).await;
        }
        let _turn = core.turns.internal(capsule).await;
        match until_answered(|| core.row(capsule)).await {
            Ok(mut row) if row.task_state.is_none() => {
                core.executor.write(&mut row, Changes::error(e.to_string())).await;
            }
            _ => tracing::debug!(error = %e, "a capsule goes"),
        }
    }
}

async fn start_capsule_again<W: World>(core: &Arc<Core<W>>, mut row: Container, turn: Turn) -> Result<()> {
    let uuid = row.uuid;
    let started = async {
        capsule::begin_anew(core, &row).await?;
        bring_up(core, &row, &turn).await
    };
    match started.await {
        Ok(_) => {
            let up = Changes { status_detail: Some(None), ..running() };
            core.executor.write(&mut row, up).await;
            drop(turn);
            go_on(core, uuid).await;
            Ok(())
        }
        Err(e) => {
            core.executor.write(&mut row, Changes::error(e.to_string())).await;
            Err(e)
        }
    }
}

/// Takes away what a container held that has ended, writes how it ended, and does what follows.
async fn record_end<W: World>(core: &Arc<Core<W>>, mut row: Container, after: AfterEnd) -> Result<()> {
    let uuid = row.uuid;
    core.engine.release(uuid).await?;
    let observed = core.observe(uuid).await;
    let ended = if row.is_capsule() { capsule_ended(&observed) } else { core.view(uuid, &observed) };
    if row.is_capsule() {
        capsule::end_members(core, &row, &ended).await?;
    }
    match after {
        AfterEnd::Stay => {
            core.executor.write(&mut row, ended).await;
            tracing::info!(status = %row.status, detail = row.status_detail.as_deref().unwrap_or("-"), "ended");
        }
        AfterEnd::Restart(restarts) => {
            core.update_record(uuid, |record| {
                record.restarts = restarts;
                true
            })?;
            core.executor.write(&mut row, restarting()).await;
            tracing::info!(restart = restarts.all, "it ended, and its policy starts it again");
            core.tell_later(uuid, Event::RestartDue(restarts.all), restarts.pause());
        }
        AfterEnd::Remove => {
            core.executor.write(&mut row, ended).await;
            delete::delete_ended(core, row).await?;
        }
    }
    Ok(())
}

fn capsule_ended(observed: &Observed) -> Changes {
    const LOST: &str = "the capsule's sandbox has ended";
    let failure = match observed {
        Observed::Ended(end) => end.failure.clone(),
        _ => None,
    };
    Changes {
        status_detail: Some(None),
        status_reason: Some(Some(failure.unwrap_or_else(|| LOST.into()))),
        ..Changes::status(Status::Stopped)
    }
}

/// Whether [`resume`] leaves it as far as it has come.
pub fn is_mended(task: TaskState) -> bool {
    matches!(task, TaskState::NetworkAttaching | TaskState::NetworkDetaching)
}

/// Whether what was interrupted is done again by [`resume`], or else taken back.
pub fn is_done_again(row: &Container, task: TaskState) -> bool {
    match task {
        TaskState::ContainerStarting => !row.is_capsule(),
        TaskState::ContainerDeleting
        | TaskState::ContainerStopping
        | TaskState::ContainerRebooting
        | TaskState::ContainerPausing
        | TaskState::ContainerUnpausing
        | TaskState::ContainerKilling
        | TaskState::ContainerRebuilding => true,
        TaskState::ImagePulling
        | TaskState::ContainerCreating
        | TaskState::SgAdding
        | TaskState::SgRemoving
        | TaskState::NetworkAttaching
        | TaskState::NetworkDetaching => false,
    }
}

/// Does again what was interrupted, as upstream does at start.
async fn resume<W: World>(
    core: &Arc<Core<W>>,
    mut row: Container,
    task: TaskState,
    turn: Turn,
) -> Result<()> {
    tracing::info!(%task, "it was interrupted and is tried again");
    let (uuid, grace) = (row.uuid, core.policy.stop_timeout);
    let resumed = match task {
        TaskState::ImagePulling | TaskState::ContainerCreating => {
            create::abandon(core, &mut row).await;
            return Ok(());
        }
        TaskState::ContainerStarting if row.is_capsule() => {
            create::abandon(core, &mut row).await;
            return Ok(());
        }
        TaskState::ContainerDeleting => {
            let thoroughness = delete::begun_thoroughness(core, &row);
            return delete::delete(core, NOBODY, row, thoroughness).await;
        }
        TaskState::ContainerStarting => start(core, NOBODY, row, &turn).await,
        TaskState::ContainerStopping => stop(core, NOBODY, row, grace, &turn).await,
        TaskState::ContainerRebooting => reboot(core, NOBODY, row, grace, &turn).await,
        TaskState::ContainerPausing => pause(core, NOBODY, row).await,
        TaskState::ContainerUnpausing => unpause(core, NOBODY, row).await,
        TaskState::ContainerKilling => {
            let signal = begun_signal(core, &row);
            kill(core, NOBODY, row, signal).await
        }
        TaskState::SgAdding
        | TaskState::SgRemoving
        | TaskState::NetworkAttaching
        | TaskState::NetworkDetaching => {
            let mended = core.provision.mend_networks(&row).await;
            let changes = mended.as_ref().map(Clone::clone).unwrap_or_default();
            core.executor.write(&mut row, Changes::task(None).after(changes)).await;
            mended.map(drop)
        }
        TaskState::ContainerRebuilding => {
            let run = row.started_at.is_some();
            rebuild(core, &nobody_of(&row), row, run, &turn).await
        }
    };
    // Whatever came of it, the end of what runs must be noticed.
    if let Some(row) = core.executor.rows().find(uuid).await?
        && row.is_up()
    {
        core.watch(&row);
    }
    resumed
}
