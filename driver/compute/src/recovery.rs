//! What is done at start for containers that were here before: each by itself, so that one that cannot be handled
//! does not keep the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ContainerType, Status, TaskState};
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
    remove_strangers(manager, known).await;
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
        let resumed = manager.resume(container, task).await;
        // Whatever came of it, the end of what runs must be noticed.
        if resumed.is_err()
            || manager.host().sandbox(&uuid.to_string()).situation().await.runs(&uuid.to_string())
        {
            manager.watch(uuid);
        }
        return resumed;
    }
    let situation = manager.host().sandbox(&uuid.to_string()).situation().await;
    match (container.status, situation) {
        (_, situation) if situation.runs(&uuid.to_string()) => {
            tracing::info!("adopted");
            manager.watch(uuid);
            Ok(())
        }
        _ if manager.has_lost(&container) => manager.heal(container).await,
        (Status::Running, _) if manager.options().compute.resume_container_state => {
            manager.release(uuid).await?;
            manager.resume(container, Some(TaskState::ContainerStarting)).await
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
