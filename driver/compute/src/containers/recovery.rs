//! The event «this service has been started», for each container by itself. A container's operations wait for its own recovery
//! only, and requests are served meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{Addresses, Container, ContainerUuid, Json, Status, Unfinished};
use sandbox::SandboxStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::Instrument;

use super::core::{Core, World, background_span};
use super::events::{decide_upon, follow, is_done_again, is_mended};
use super::patience::until_answered;
use super::provision::Provision;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::host_names::HostNames;
use crate::lifecycle::{Decision, Event, decide};
use crate::rows::Rows;
use crate::turns::{Ticket, Turn};

/// What has become of what was interrupted.
enum Recovered {
    /// It was done again.
    DoneAgain,
    /// It was taken back, or there was nothing.
    Otherwise,
}

/// Sandboxes that are looked at at one time. What follows from that is not counted: it may take its time.
const LOOKS: usize = 32;
/// Before a container is taken over again whose row or ports could not be; doubled up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What was found at start.
pub struct Recovery {
    rows: Vec<(Ticket, Container)>,
    unfinished: BTreeMap<ContainerUuid, Vec<Unfinished>>,
    /// The sandboxes of this host, and what they have written.
    pub sandboxes: BTreeMap<ContainerUuid, SandboxStatus>,
    /// Those that no row has.
    pub orphans: Vec<ContainerUuid>,
    host: String,
}

impl Recovery {
    /// Finds the containers of this host, and takes the first place in the line of each. Requests may be served from then on.
    pub async fn begin<W: World>(core: &Core<W>, names: &HostNames) -> Result<Self> {
        let written = core.engine.survey()?;
        let mut rows = core.executor.rows().list().await?;
        let here: Vec<ContainerUuid> = written.keys().copied().collect();
        let hosts = core.executor.rows().hosts_of(&here).await?;
        let orphans = here.iter().filter(|uuid| !hosts.contains_key(uuid)).copied().collect();
        rows.extend(under_other_names(core, names, &hosts).await?);
        Self::of(core, rows, written, orphans, names).await
    }

    /// Finds this host's containers whose rows still name another host. When the service started, that host counted as live: its
    /// last heartbeat may have been this host's own, under its former name.
    pub async fn of_other_names<W: World>(core: &Core<W>, names: &HostNames) -> Result<Self> {
        let written = core.engine.survey()?;
        let here: Vec<ContainerUuid> = written.keys().copied().collect();
        let hosts = core.executor.rows().hosts_of(&here).await?;
        let rows = under_other_names(core, names, &hosts).await?;
        Self::of(core, rows, written, Vec::new(), names).await
    }

    async fn of<W: World>(
        core: &Core<W>,
        rows: Vec<Container>,
        sandboxes: BTreeMap<ContainerUuid, SandboxStatus>,
        orphans: Vec<ContainerUuid>,
        names: &HostNames,
    ) -> Result<Self> {
        let uuids: Vec<_> = rows.iter().map(|row| row.uuid).collect();
        let mut unfinished: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for action in core.executor.rows().unfinished(&uuids).await? {
            unfinished.entry(action.container).or_default().push(action);
        }
        let rows = rows.into_iter().map(|row| (core.turns.place(row.uuid), row)).collect();
        Ok(Self { rows, unfinished, sandboxes, orphans, host: names.now.clone() })
    }

    /// The containers that were found.
    pub fn containers(&self) -> Vec<ContainerUuid> {
        self.rows.iter().map(|(_, row)| row.uuid).collect()
    }
}

/// Containers that are this host's although their rows name another: those whose sandboxes are here, unless a live other host has
/// them, and all of this host's former names that no live host bears.
async fn under_other_names<W: World>(
    core: &Core<W>,
    names: &HostNames,
    hosts: &BTreeMap<ContainerUuid, Option<String>>,
) -> Result<Vec<Container>> {
    let (all, mut rows) = (core.executor.rows(), Vec::new());
    for (uuid, other) in elsewhere(hosts, &names.now) {
        let is_ours = names.former.contains(other) || !all.is_served(other).await?;
        if !is_ours {
            tracing::error!(sandbox = %uuid, host = other, "a sandbox of this host is a live other host's by its row: it is left alone");
        } else if let Some(row) = all.find(uuid).await? {
            rows.push(row);
        }
    }
    for former in &names.former {
        // Interrupted creations, and what was lost: of these there is nothing here.
        let known: BTreeSet<_> = rows.iter().map(|row| row.uuid).collect();
        if !all.is_served(former).await? {
            let others = all.list_on(former).await?;
            rows.extend(others.into_iter().filter(|row| !known.contains(&row.uuid)));
        }
    }
    Ok(rows)
}

/// Former names of this host of which nothing is left, and those that another host has been given: what runs there is not to be
/// taken for this host's. It is asked when no heartbeat of this host's own can be the last under such a name.
pub async fn outlived_names<W: World>(core: &Core<W>, names: &HostNames) -> Result<Vec<String>> {
    let here: Vec<ContainerUuid> = core.engine.survey()?.into_keys().collect();
    let (all, mut outlived) = (core.executor.rows(), Vec::new());
    let hosts = all.hosts_of(&here).await?;
    let elsewhere: BTreeSet<_> = elsewhere(&hosts, &names.now).into_iter().map(|(_, host)| host).collect();
    for former in &names.former {
        let has_sandboxes = elsewhere.contains(former.as_str());
        if !has_sandboxes && (all.is_served(former).await? || all.list_on(former).await?.is_empty()) {
            outlived.push(former.clone());
        }
    }
    Ok(outlived)
}

/// Sandboxes of this host whose rows name another. A row without a host is one whose creation failed, and is left out.
fn elsewhere<'a>(
    hosts: &'a BTreeMap<ContainerUuid, Option<String>>,
    own: &str,
) -> Vec<(ContainerUuid, &'a str)> {
    let named = hosts.iter().filter_map(|(uuid, host)| Some((*uuid, host.as_deref()?)));
    named.filter(|(_, host)| *host != own).collect()
}

/// Does for each container what is due after this service was away, some side by side: whoever asks for something meanwhile finds
/// no more than these before him. It ends once each has begun.
pub async fn recover<W: World>(core: Arc<Core<W>>, mut recovery: Recovery) {
    let host: Arc<str> = recovery.host.into();
    let looks = Arc::new(Semaphore::new(LOOKS));
    for (ticket, row) in recovery.rows {
        let Ok(look) = Arc::clone(&looks).acquire_owned().await else { return };
        let uuid = row.uuid;
        let written = recovery.sandboxes.get(&uuid).cloned().unwrap_or(SandboxStatus::Absent);
        let (core, host) = (Arc::clone(&core), Arc::clone(&host));
        let unfinished = recovery.unfinished.remove(&uuid).unwrap_or_default();
        let said = unfinished.last().and_then(|last| said_by(&row, last));
        let work = async move {
            let recovered = recover_one(&core, ticket, row, written, look, &host).await;
            if let Err(e) = &recovered {
                tracing::error!(error = %e, "a container could not be recovered");
            }
            let result = match recovered {
                Ok(Recovered::DoneAgain) => Ok(()),
                Ok(Recovered::Otherwise) => said.unwrap_or(Err(Error::Interrupted)),
                Err(e) => Err(e),
            };
            end_actions(&core, &unfinished, result);
        };
        tokio::spawn(work.instrument(background_span(uuid)));
    }
}

/// How the last action ended, if the row proves it. Its result reaches the row before the history, so that a service that died in
/// between finds it only there. `None` where the row would say the same after a failure.
fn said_by(row: &Container, last: &Unfinished) -> Option<Result<()>> {
    let is_written = row.updated_at.zip(last.started).is_some_and(|(written, started)| written >= started);
    let fails_into_error = matches!(last.action.as_str(), "create" | "start" | "reboot");
    match (last.action.as_str(), row.status) {
        _ if row.task_state.is_some() || !is_written => None,
        (_, Status::Error) if fails_into_error => {
            Some(Err(Error::Conflict(row.status_reason.clone().unwrap_or_default())))
        }
        ("create", _)
        | ("start" | "reboot" | "unpause", Status::Running)
        | ("stop" | "kill", Status::Stopped)
        | ("pause", Status::Paused) => Some(Ok(())),
        _ => None,
    }
}

/// Ends the actions whose events were open when the service ended. The last of them was under way.
fn end_actions<W: World>(core: &Core<W>, unfinished: &[Unfinished], mut last: Result<()>) {
    for Unfinished { container, request_id, action, event, .. } in unfinished.iter().rev() {
        let result = std::mem::replace(&mut last, Err(Error::Interrupted));
        core.executor.event_finished(request_id, *container, event, &result);
        core.executor.finish(request_id, *container, action, &result);
    }
}

/// Tries until it works. Who wants the container's end is let by meanwhile; none is left where that was its deletion.
async fn take_over<W: World>(
    core: &Core<W>,
    mut row: Container,
    mut turn: Turn,
) -> Result<Option<(Container, Turn)>> {
    let (uuid, mut pause) = (row.uuid, FIRST_PAUSE);
    while let Err(e) = core.provision.take_over(&mut row).await {
        tracing::error!(error = %e, "a container is not taken over yet");
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = turn.hurried() => {
                drop(turn);
                turn = core.turns.internal(uuid).await;
            }
        }
        match until_answered(|| core.executor.rows().find(uuid)).await? {
            Some(now) => row = now,
            None => return Ok(None),
        }
    }
    Ok(Some((row, turn)))
}

async fn recover_one<W: World>(
    core: &Arc<Core<W>>,
    ticket: Ticket,
    mut row: Container,
    mut written: SandboxStatus,
    look: OwnedSemaphorePermit,
    host: &str,
) -> Result<Recovered> {
    let mut turn = ticket.turn().await;
    if row.host.as_deref() != Some(host) {
        // It may take its time.
        drop(look);
        tracing::warn!(
            from = row.host.as_deref().unwrap_or("-"),
            "a container of this host is taken over from another name of it"
        );
        let Some(now) = until_answered(|| core.executor.rows().find(row.uuid)).await? else {
            return Ok(Recovered::Otherwise);
        };
        let Some(taken) = take_over(core, now, turn).await? else { return Ok(Recovered::Otherwise) };
        (row, turn) = taken;
        // Others may have had their turns meanwhile.
        written = core.engine.status(row.uuid).await;
    } else {
        // What has ended needs nobody to be asked.
        if let SandboxStatus::Live(_) | SandboxStatus::Unanswered = written {
            written = core.engine.status(row.uuid).await;
        }
        drop(look);
        let seen = core.observed(row.uuid, &written);
        if decide(&core.facts(&row)?, &seen, Event::ServiceStarted) != Decision::Keep {
            // This turn may have come late, and Zun's API writes rows too.
            let now = until_answered(|| core.executor.rows().find(row.uuid)).await?;
            let Some(now) = now else { return Ok(Recovered::Otherwise) };
            row = now;
        }
    }
    let (observed, decision) = decide_upon(core, &row, &written, Event::ServiceStarted)?;
    let (uuid, addresses) = (row.uuid, row.addresses.clone());
    let (is_done_again, is_mended) = match decision {
        Decision::Resume(task) => (is_done_again(&row, task), is_mended(task)),
        _ => (false, false),
    };
    Box::pin(follow(core, row, &observed, decision, turn)).await?;
    if is_done_again || is_mended && has_other_addresses(core, uuid, addresses).await? {
        Ok(Recovered::DoneAgain)
    } else {
        Ok(Recovered::Otherwise)
    }
}

/// Whether an interface that came or went has come, or gone, after all.
async fn has_other_addresses<W: World>(
    core: &Core<W>,
    uuid: ContainerUuid,
    before: Option<Json<Addresses>>,
) -> Result<bool> {
    let row = until_answered(|| core.executor.rows().find(uuid)).await?;
    Ok(row.is_some_and(|row| row.addresses != before))
}

#[cfg(test)]
mod tests {
    use time::PrimitiveDateTime;

    use super::*;

    #[test]
    fn an_action_ends_as_the_row_proves() {
        let captured = include_str!("../../../model/tests/container.json");
        let mut row = Container::from_wire(&serde_json::from_str(captured).unwrap()).unwrap();
        let at = |second| PrimitiveDateTime::MIN + Duration::from_secs(second);
        let mut said = |action: &str, status, task: Option<&str>, written| {
            (row.status, row.task_state, row.updated_at) =
                (status, task.map(str::to_owned), Some(at(written)));
            row.status_reason = Some("why".into());
            let (action, event) = (action.to_owned(), "event".to_owned());
            let last = Unfinished {
                container: row.uuid,
                request_id: "r".into(),
                action,
                event,
                started: Some(at(5)),
            };
            said_by(&row, &last).map(|said| said.map_err(|e| e.to_string()))
        };
        let failed = Some(Err("why".to_owned()));
        let cases = [
            (said("start", Status::Running, None, 5), Some(Ok(()))),
            (said("start", Status::Running, None, 4), None),
            (said("start", Status::Stopped, None, 6), None),
            (said("start", Status::Running, Some("container_starting"), 5), None),
            (said("create", Status::Error, None, 6), failed),
            (said("stop", Status::Stopped, None, 6), Some(Ok(()))),
            // It failed, and left the row as it was.
            (said("stop", Status::Running, None, 6), None),
            (said("pause", Status::Paused, None, 6), Some(Ok(()))),
            (said("pause", Status::Running, None, 6), None),
            (said("add_security_group", Status::Running, None, 6), None),
            (said("rebuild", Status::Running, None, 6), None),
        ];
        for (number, (found, expected)) in cases.into_iter().enumerate() {
            assert_eq!(found, expected, "case {number}");
        }
    }
}
