//! Ends that somebody asks for: stop, kill, the first half of a restart.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, Status};
use time::OffsetDateTime;

use super::core::{Core, World};
use super::delete::delete_ended;
use super::start::{bring_up, forget_restarts};
use crate::engine::Engine;
use crate::error::Result;
use crate::lifecycle::{End, Observed, SIGKILL, view};
use crate::operation::{KILL, PAUSE, REBOOT, STOP, UNPAUSE};
use crate::turns::Turn;

/// How long a process may take to end that was killed, before its guest is ended under it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a signal other than SIGKILL may take to end a container before the operation ends.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks a container's process to end, ends it if it does not, and records its end.
pub async fn stop<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    grace: Duration,
    turn: &Turn,
) -> Result<()> {
    let begun = core.executor.begin(request, &mut row, &STOP, Changes::default()).await?;
    let stopped = stop_process(core, &row, grace, turn).await;
    core.executor.settle(begun, &mut row, stopped).await?;
    delete_ended(core, row).await
}

/// Stops and starts it.
pub async fn reboot<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    grace: Duration,
    turn: &Turn,
) -> Result<()> {
    let begun = core.executor.begin(request, &mut row, &REBOOT, Changes::default()).await?;
    let rebooted = async {
        stop_process(core, &row, grace, turn).await?;
        forget_restarts(core, &row)?;
        bring_up(core, &row, turn).await
    };
    let rebooted = rebooted.await;
    core.executor.settle(begun, &mut row, rebooted).await?;
    core.watch(&row);
    Ok(())
}

/// Sends a signal. The container counts as stopped only if that ended it. A signal that asks it to end, however long that
/// takes, leaves nothing for its restart policy to do (moby, `daemon/kill.go`).
pub async fn kill<W: World>(
    core: &Arc<Core<W>>,
    request: &str,
    mut row: Container,
    signal: u32,
) -> Result<()> {
    // An interrupted kill repeats this signal and no other.
    let own = (signal != SIGKILL).then_some(signal);
    if let Err(e) = core.update_record(row.uuid, |record| std::mem::replace(&mut record.signal, own) != own) {
        tracing::warn!(error = %e, "the signal is not recorded");
    }
    let begun = core.executor.begin(request, &mut row, &KILL, Changes::default()).await?;
    let killed = send_signal(core, &row, signal).await;
    core.executor.settle(begun, &mut row, killed).await?;
    if row.status == Status::Stopped { delete_ended(core, row).await } else { Ok(()) }
}

/// Lets the processors stand still.
pub async fn pause<W: World>(core: &Arc<Core<W>>, request: &str, mut row: Container) -> Result<()> {
    let begun = core.executor.begin(request, &mut row, &PAUSE, Changes::default()).await?;
    let paused = core.engine.pause(row.uuid).await;
    core.executor.settle(begun, &mut row, paused.map(|()| Changes::status(Status::Paused))).await
}

/// Lets them go on.
pub async fn unpause<W: World>(core: &Arc<Core<W>>, request: &str, mut row: Container) -> Result<()> {
    let begun = core.executor.begin(request, &mut row, &UNPAUSE, Changes::default()).await?;
    let resumed = core.engine.resume(row.uuid).await;
    core.executor.settle(begun, &mut row, resumed.map(|()| Changes::status(Status::Running))).await
}

async fn stop_process<W: World>(
    core: &Core<W>,
    row: &Container,
    grace: Duration,
    turn: &Turn,
) -> Result<Changes> {
    let (uuid, record) = (row.uuid, core.engine.record(row.uuid)?);
    if let (Some(main), Observed::Running { .. }) = (record.main_process(), core.observe(uuid).await) {
        let id = &main.container.id;
        match core.engine.signal(uuid, id, main.stop_signal).await {
            Ok(()) => {
                tokio::select! {
                    biased;
                    // However the wait ends, what is left is killed.
                    _ = core.engine.wait(uuid, id) => {}
                    () = tokio::time::sleep(grace) => {}
                    () = turn.hurried() => tracing::info!("the time that a process has to end is cut short"),
                }
                kill_process(core, uuid, id).await;
            }
            Err(e) => tracing::warn!(error = %e, "a process cannot be asked to end: its sandbox is ended"),
        }
    }
    record_end(core, row).await
}

/// Kills a process that still runs, and waits a little. What does not work is left to the end of its sandbox.
async fn kill_process<W: World>(core: &Core<W>, uuid: model::ContainerUuid, process: &str) {
    if !core.engine.status(uuid).await.runs(process) {
        return;
    }
    if let Err(e) = core.engine.signal(uuid, process, SIGKILL).await {
        tracing::warn!(error = %e, "a process cannot be killed: its sandbox is ended");
    } else if tokio::time::timeout(KILL_TIMEOUT, core.engine.wait(uuid, process)).await.is_err() {
        tracing::warn!("a process does not end: its sandbox is ended");
    }
}

/// The signal that was being sent to a container when the service ended.
pub fn begun_signal<W: World>(core: &Core<W>, row: &Container) -> u32 {
    let record = core.engine.find_record(row.uuid).ok().flatten();
    record.and_then(|record| record.signal).unwrap_or(SIGKILL)
}

async fn send_signal<W: World>(core: &Core<W>, row: &Container, signal: u32) -> Result<Changes> {
    let (uuid, record) = (row.uuid, core.engine.record(row.uuid)?);
    let Some(main) = record.main_process() else { return Ok(Changes::default()) };
    let (asks_to_end, was_asked) = (cancels_policy(signal, main.own_stop_signal()), record.is_stopped);
    if asks_to_end {
        core.update_record(uuid, |record| !std::mem::replace(&mut record.is_stopped, true))?;
    }
    let id = &main.container.id;
    match core.engine.signal(uuid, id, signal).await {
        Err(e) if signal == SIGKILL => {
            tracing::warn!(error = %e, "a process cannot be killed: its sandbox is ended");
            return record_end(core, row).await;
        }
        Err(e) if was_asked && asks_to_end && !core.observe(uuid).await.may_run() => {
            tracing::info!(error = %e, "the process has ended already, perhaps by this signal when it was first sent");
            return record_end(core, row).await;
        }
        Err(e) => {
            if asks_to_end {
                core.update_record(uuid, |record| std::mem::replace(&mut record.is_stopped, false))?;
            }
            return Err(e);
        }
        Ok(()) => {}
    }
    let patience = if signal == SIGKILL { KILL_TIMEOUT } else { SIGNAL_TIMEOUT };
    match tokio::time::timeout(patience, core.engine.wait(uuid, id)).await {
        Err(_) if signal != SIGKILL => Ok(Changes::default()),
        _ => record_end(core, row).await,
    }
}

/// Whether a signal switches the restart policy off. Where the image names a stop signal, that one and SIGKILL do; where it names
/// none, any signal that a user sends does (moby, `daemon/kill.go`, `killWithSignal`).
fn cancels_policy(signal: u32, stop_signal: Option<u32>) -> bool {
    signal == SIGKILL || stop_signal.is_none_or(|stop_signal| signal == stop_signal)
}

/// Takes away what the container held, and tells how it ended. That it was ended on request is no failure, however it was
/// done.
async fn record_end<W: World>(core: &Core<W>, row: &Container) -> Result<Changes> {
    core.engine.release(row.uuid).await?;
    Ok(match core.observe(row.uuid).await {
        Observed::Ended(End { exit: Some(exit), ran, .. }) => {
            let asked = Observed::Ended(End { exit: Some(exit), failure: None, ran });
            view(&asked, None, OffsetDateTime::now_utc()).unwrap_or_default()
        }
        _ => Changes::status(Status::Stopped),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::SIGTERM;

    #[test]
    fn a_users_signal_is_meant_to_end_unless_the_image_names_another() {
        const SIGINT: u32 = 2;
        const SIGQUIT: u32 = 3;
        for signal in [SIGINT, SIGTERM, SIGKILL] {
            assert!(cancels_policy(signal, None), "{signal}");
        }
        assert!(cancels_policy(SIGQUIT, Some(SIGQUIT)) && cancels_policy(SIGKILL, Some(SIGQUIT)));
        assert!(!cancels_policy(SIGTERM, Some(SIGQUIT)), "it may be for something else");
    }
}
