//! Pause and unpause: the processors of a container's sandbox stand still, and all it has stays.

use model::{Changes, Container, Status, TaskState};

use super::Manager;
use super::steps::Operation;
use crate::error::Result;

const PAUSE: Operation =
    Operation { task: TaskState::ContainerPausing, event: "_do_container_pause", action: "pause" };

const UNPAUSE: Operation =
    Operation { task: TaskState::ContainerUnpausing, event: "_do_container_unpause", action: "unpause" };

impl Manager {
    pub(super) async fn container_pause(&self, request: &str, container: Container) -> Result<()> {
        let work = async |container: &mut Container| {
            self.sandbox(container.uuid).pause().await?;
            self.save(container, Changes::status(Status::Paused)).await
        };
        self.operate(request, container, &PAUSE, work).await
    }

    pub(super) async fn container_unpause(&self, request: &str, container: Container) -> Result<()> {
        let work = async |container: &mut Container| {
            self.sandbox(container.uuid).resume().await?;
            self.save(container, Changes::status(Status::Running)).await
        };
        self.operate(request, container, &UNPAUSE, work).await
    }
}
