//! What is done at start for containers that were here before: each by itself, so that one that cannot be handled
//! does not keep the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ContainerType, ContainerUuid, Status, TaskState};
use tracing::Instrument;

use crate::error::Result;
use crate::manager::{Manager, background_span};

/// Brings rows and sandboxes together.
pub async fn recover(manager: &Arc<Manager>) {
    let (database, host) = (manager.database(), &manager.options().default.host);
    let listed = async {
        let known = Container::uuids_by_host(database, host).await?;
        let containers = Container::list_by_host(database, &[ContainerType::Container], host).await?;
        let capsules = Container::list_by_host(database, &[ContainerType::Capsule], host).await?;
        Ok::<_, model::Error>((known, containers, capsules))
    };
    let (known, containers, capsules) = match listed.await {
        Ok(listed) => listed,
        Err(e) => return tracing::error!("the containers of this host cannot be listed: {e}"),
    };
    if let Err(e) = manager.remove_stray_ports(&known).await {
        tracing::error!("ports may be left behind: {e}");
    }
    remove_strangers(manager, known).await;
    if let Err(e) = manager.remove_leftover_taps().await {
        tracing::error!("taps may be left behind: {e}");
    }
    for container in containers {
        let span = background_span(container.uuid);
        log_failure(&span, recover_one(manager, container).instrument(span.clone()).await);
    }
    for capsule in capsules {
        let span = background_span(capsule.uuid);
        log_failure(&span, manager.recover_capsule(capsule).instrument(span.clone()).await);
    }
}

fn log_failure(span: &tracing::Span, recovered: Result<()>) {
    if let Err(e) = recovered {
        span.in_scope(|| tracing::error!("it cannot be recovered: {e}"));
    }
}

/// Removes sandboxes whose row is gone: it was deleted while this service was not there. One whose row cannot be read is
/// none of them.
async fn remove_strangers(manager: &Arc<Manager>, known: Vec<String>) {
    let known: HashSet<String> = known.into_iter().collect();
    let found = match manager.host().list() {
        Ok(found) => found,
        Err(e) => return tracing::error!("the sandboxes of this host cannot be listed: {e}"),
    };
    for id in found.iter().filter(|id| !known.contains(*id)) {
        tracing::warn!(sandbox = id, "no container of this host has it; it is removed");
        let removed = match id.parse() {
            Ok(uuid) => manager.clean_up(uuid).await,
            Err(_) => manager.host().sandbox(id).delete().await.map_err(Into::into),
        };
        if let Err(e) = removed {
            tracing::error!(sandbox = id, "it cannot be removed: {e}");
        }
    }
}

async fn recover_one(manager: &Arc<Manager>, mut container: Container) -> Result<()> {
    let uuid = container.uuid;
    let commits = manager.interrupted_commits(uuid);
    if !commits.is_empty() {
        let (manager, container) = (Arc::clone(manager), container.clone());
        in_background(uuid, async move { manager.abandon_commits(&container, &commits).await });
    }
    let task = container.task();
    let creating = matches!(task, Some(TaskState::ContainerCreating | TaskState::ImagePulling));
    if container.status == Status::Creating || creating {
        manager.abandon_create(&mut container).await;
        return Ok(());
    }
    if container.task_state.is_some() {
        container.save(manager.database(), Changes::task(None)).await?;
        tracing::info!(
            "{} was interrupted and is tried again",
            task.map_or("a task".into(), |t| t.to_string())
        );
        in_background(uuid, resume(Arc::clone(manager), container, task));
        return Ok(());
    }
    let situation = manager.host().sandbox(&uuid.to_string()).situation().await;
    match (container.status, situation) {
        (_, situation) if situation.runs(&uuid.to_string()) => {
            tracing::info!("adopted");
            manager.watch(uuid);
            Ok(())
        }
        _ if manager.has_lost(&container) => {
            let manager = Arc::clone(manager);
            in_background(uuid, async move { manager.heal(container).await });
            Ok(())
        }
        (Status::Running, _) if manager.options().compute.resume_container_state => {
            manager.release(uuid).await?;
            in_background(uuid, resume(Arc::clone(manager), container, Some(TaskState::ContainerStarting)));
            Ok(())
        }
        (Status::Restarting, _) => {
            manager.restart_later(uuid, Duration::ZERO);
            Ok(())
        }
        (Status::Running | Status::Paused, _) => manager.ended(uuid).await,
        // What an interrupted start left of a container that does not run.
        _ => manager.release(uuid).await,
    }
}

/// Does again what was interrupted.
async fn resume(manager: Arc<Manager>, container: Container, task: Option<TaskState>) -> Result<()> {
    let uuid = container.uuid;
    let resumed = manager.resume(container, task).await;
    let starts = matches!(
        task,
        Some(TaskState::ContainerStarting | TaskState::ContainerRebooting | TaskState::ContainerRebuilding)
    );
    let is_watched = starts && resumed.is_ok();
    // Whatever came of it, the end of what runs must be noticed.
    let runs = manager.host().sandbox(&uuid.to_string()).situation().await.runs(&uuid.to_string());
    if !is_watched && (runs || resumed.is_err()) {
        manager.watch(uuid);
    }
    resumed
}

/// What may take its time keeps no other container, and no request, waiting.
fn in_background(uuid: ContainerUuid, work: impl Future<Output = Result<()>> + Send + 'static) {
    let span = background_span(uuid);
    let work = async move { log_failure(&tracing::Span::current(), work.await) };
    tokio::spawn(work.instrument(span));
}
