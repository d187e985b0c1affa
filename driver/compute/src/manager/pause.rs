//! Pause and unpause: the processors of a container's sandbox stand still, and all it has stays.

use model::{Changes, Container, Status, TaskState};

use super::Manager;
use super::steps::require_created;
use crate::error::Result;

/// The one or the other, as upstream names it.
struct Switch {
    status: Status,
    task: TaskState,
    event: &'static str,
    action: &'static str,
}

const PAUSE: Switch = Switch {
    status: Status::Paused,
    task: TaskState::ContainerPausing,
    event: "_do_container_pause",
    action: "pause",
};

const UNPAUSE: Switch = Switch {
    status: Status::Running,
    task: TaskState::ContainerUnpausing,
    event: "_do_container_unpause",
    action: "unpause",
};

impl Manager {
    pub(super) async fn container_pause(&self, request: &str, container: Container) -> Result<()> {
        self.switch(request, container, &PAUSE).await
    }

    pub(super) async fn container_unpause(&self, request: &str, container: Container) -> Result<()> {
        self.switch(request, container, &UNPAUSE).await
    }

    async fn switch(&self, request: &str, container: Container, to: &Switch) -> Result<()> {
        let _turn = self.locks.lock(container.uuid).await;
        let mut container = self.fresh(container).await?;
        let seen = container.clone();
        let work = async {
            require_created(&container)?;
            let began = self.begin(&mut container, to.task).await?;
            let switched = self.switch_processors(&mut container, to.status).await;
            self.end(&mut container, began).await;
            switched
        };
        let result = self.event(request, &seen, to.event, work).await;
        self.finish(request, &container, to.action, &result).await;
        result
    }

    async fn switch_processors(&self, container: &mut Container, status: Status) -> Result<()> {
        let sandbox = self.sandbox(container.uuid);
        match status {
            Status::Paused => sandbox.pause().await?,
            _ => sandbox.resume().await?,
        }
        self.save(container, Changes::status(status)).await
    }
}
