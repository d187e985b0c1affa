//! What requests do to a container's life, each in the container's turn.

use std::sync::Arc;
use std::time::Duration;

use model::{Changes, Container, ContainerUuid};
use oslo::RequestContext;

use super::core::{Core, World};
use super::create::{create, create_capsule};
use super::delete::delete;
use super::provision::{Thoroughness, Wanted};
use super::rebuild::rebuild;
use super::start::start;
use super::stop::{kill, pause, reboot, stop, unpause};
use crate::error::Result;
use crate::executor::{Begun, require_created};
use crate::lifecycle::{Event, SIGKILL, SIGTERM};
use crate::operation::Operation;
use crate::turns::{Turn, Urgency};

/// Something that is asked of a container's life.
#[derive(Debug)]
pub enum Lifecycle {
    /// Make it, and run it.
    Create {
        /// The row as the API sent it.
        row: Box<Container>,
        /// What it needs.
        wanted: Box<Wanted>,
        /// Whether it is started.
        run: bool,
    },
    /// Start it.
    Start,
    /// End it.
    Stop {
        /// How long its process may take.
        grace: Duration,
    },
    /// Signal it.
    Kill {
        /// The signal's number.
        signal: u32,
    },
    /// End it and start it.
    Reboot {
        /// How long its process may take to end.
        grace: Duration,
    },
    /// Make it anew.
    Rebuild {
        /// Whether it is started.
        run: bool,
    },
    /// Delete it.
    Delete(Thoroughness),
    /// Let it stand still.
    Pause,
    /// Let it go on.
    Unpause,
}

/// A request for one container.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub context: RequestContext,
    /// The container.
    pub uuid: ContainerUuid,
    /// What is asked.
    pub what: Lifecycle,
}

impl Lifecycle {
    /// The name of the action that it is in Zun's tables.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Start => "start",
            Self::Stop { .. } => "stop",
            Self::Kill { .. } => "kill",
            Self::Reboot { .. } => "reboot",
            Self::Rebuild { .. } => "rebuild",
            Self::Delete(_) => "delete",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
        }
    }

    /// Whether it is to end the patience of whoever works on the container. Of signals those are that ask a process to end.
    pub fn urgency(&self) -> Urgency {
        match self {
            Self::Kill { signal: SIGKILL | SIGTERM } | Self::Delete(_) => Urgency::Urgent,
            Self::Create { .. }
            | Self::Start
            | Self::Stop { .. }
            | Self::Kill { .. }
            | Self::Reboot { .. }
            | Self::Rebuild { .. }
            | Self::Pause
            | Self::Unpause => Urgency::Ordinary,
        }
    }
}

impl Request {
    /// Does it, in the container's turn.
    pub async fn perform<W: World>(self, core: &Arc<Core<W>>, turn: Turn) -> Result<()> {
        let (uuid, is_rebuild) = (self.uuid, matches!(self.what, Lifecycle::Rebuild { .. }));
        let done = Box::pin(self.work(core, turn)).await;
        if is_rebuild && done.is_err() {
            // The API has said already that it is being rebuilt.
            core.tell(uuid, Event::Looked);
        }
        done
    }

    async fn work<W: World>(self, core: &Arc<Core<W>>, turn: Turn) -> Result<()> {
        let id = self.context.request();
        if let Lifecycle::Create { row, wanted, run } = self.what {
            return match row.is_capsule() {
                true => create_capsule(core, id, *row, &wanted, turn).await,
                false => create(core, id, *row, &wanted, run, &turn).await,
            };
        }
        let row = core.row(self.uuid).await?;
        if !matches!(self.what, Lifecycle::Delete(_) | Lifecycle::Rebuild { .. }) {
            require_created(&row)?;
        }
        match self.what {
            Lifecycle::Create { .. } => Ok(()),
            Lifecycle::Start => start(core, id, row, &turn).await,
            Lifecycle::Stop { grace } => stop(core, id, row, grace, &turn).await,
            Lifecycle::Kill { signal } => kill(core, id, row, signal).await,
            Lifecycle::Reboot { grace } => reboot(core, id, row, grace, &turn).await,
            Lifecycle::Rebuild { run } => rebuild(core, &self.context, row, run, &turn).await,
            Lifecycle::Delete(thoroughness) => delete(core, id, row, thoroughness).await,
            Lifecycle::Pause => pause(core, id, row).await,
            Lifecycle::Unpause => unpause(core, id, row).await,
        }
    }
}

/// Begins a change of a container that is no step of its life. The caller has the container's turn, and ends it with
/// [`Executor::settle`](crate::executor::Executor::settle).
pub async fn begin_change<W: World>(
    core: &Core<W>,
    request: &str,
    uuid: ContainerUuid,
    operation: &'static Operation,
) -> Result<(Begun, Container)> {
    let mut row = core.row(uuid).await?;
    require_created(&row)?;
    let begun = core.executor.begin(request, &mut row, operation, Changes::default()).await?;
    Ok((begun, row))
}
