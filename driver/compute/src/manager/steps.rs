//! What goes around an operation: its action and event in the database, and the task state of its container.

use model::{ActionLog, Changes, Container, Outcome, TaskState};
use sandbox::Situation;

use super::Manager;
use crate::error::{Error, Result};

/// What is done to a container that was made, as upstream names it.
pub(super) struct Operation {
    pub task: TaskState,
    pub event: &'static str,
    pub action: &'static str,
}

impl Manager {
    /// Does `work` on a container in its turn, and records it.
    pub(super) async fn operate(
        &self,
        request: &str,
        container: Container,
        operation: &Operation,
        work: impl AsyncFnOnce(&mut Container) -> Result<()>,
    ) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let seen = container.clone();
        let worked = async {
            require_created(&container)?;
            let began = self.begin(&mut container, operation.task).await?;
            let worked = work(&mut container).await;
            self.end(&mut container, began).await;
            worked
        };
        let result = self.event(request, &seen, operation.event, worked).await;
        self.finish(request, &container, operation.action, &result).await;
        result
    }

    /// Records `work` as the event `name` of the request's action.
    pub(super) async fn event<T>(
        &self,
        request: &str,
        container: &Container,
        name: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let log = ActionLog::new(&self.database, container.uuid, request);
        record(log.start_event(&event_name(name)).await);
        let result = work.await;
        self.finish_event(request, container, name, &result).await;
        result
    }

    /// Finishes an event that was started.
    pub(super) async fn finish_event<T>(
        &self,
        request: &str,
        container: &Container,
        name: &str,
        result: &Result<T>,
    ) {
        let log = ActionLog::new(&self.database, container.uuid, request);
        record(log.finish_event(&event_name(name), &outcome(result)).await);
    }

    /// Finishes the request's action with the result of its work.
    pub(super) async fn finish<T>(
        &self,
        request: &str,
        container: &Container,
        action: &str,
        result: &Result<T>,
    ) {
        let log = ActionLog::new(&self.database, container.uuid, request);
        record(log.finish(action, &outcome(result)).await);
    }

    /// Sets what is being done to a container, unless something is being done already. Gives whether it did.
    pub(super) async fn begin(&self, container: &mut Container, task: TaskState) -> Result<bool> {
        if container.task_state.is_some() {
            return Ok(false);
        }
        self.save(container, Changes::task(Some(task))).await?;
        Ok(true)
    }

    /// Clears it again.
    pub(super) async fn end(&self, container: &mut Container, began: bool) {
        if began && let Err(e) = self.save(container, Changes::task(None)).await {
            tracing::error!("the task state is not cleared: {e}");
        }
    }

    /// What only a container can do whose sandbox lives.
    pub(super) async fn require_running(&self, action: &'static str, container: &Container) -> Result<()> {
        match self.sandbox(container.uuid).situation().await {
            Situation::Live(_) => Ok(()),
            _ => Err(Error::State { action, container: container.uuid, status: container.status }),
        }
    }

    /// Sets a container's status to `Error` and says why.
    pub(super) async fn fail(&self, container: &mut Container, error: &Error) {
        tracing::error!("{error}");
        if let Err(e) = self.save(container, Changes::error(error.to_string())).await {
            tracing::error!("the failure is not recorded: {e}");
        }
    }
}

/// A container that was never made cannot be worked on.
pub(super) fn require_created(container: &Container) -> Result<()> {
    match container.container_id {
        Some(_) => Ok(()),
        None => Err(Error::Invalid("Cannot operate an uncreated container.".into())),
    }
}

fn event_name(name: &str) -> String {
    format!("compute_{name}")
}

fn outcome<T>(result: &Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(e) => Outcome::Error(e.to_string()),
    }
}

/// A record that is lost is no reason to stop the work it is about.
fn record(result: model::Result<()>) {
    if let Err(e) = result {
        tracing::warn!("an action is not recorded: {e}");
    }
}
