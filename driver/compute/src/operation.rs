//! What is asked of a container, each thing with its names in Zun's tables and with what its failure does.

use model::TaskState;

/// What the failure of an operation does to its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It stays as it is; only the action says what went wrong.
    Keep,
    /// It is in error, and says why.
    Fail,
}

/// Something that is done to a container, as upstream names it (`zun/common/consts.py`,
/// `zun/objects/container_action.py`).
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// What its row says meanwhile.
    pub task: TaskState,
    /// The event of the request's action.
    pub event: &'static str,
    /// The action that ends with it; none where more follows.
    pub action: Option<&'static str>,
    /// What its failure does.
    pub on_failure: OnFailure,
}

const fn operation(
    task: TaskState,
    event: &'static str,
    action: Option<&'static str>,
    on_failure: OnFailure,
) -> Operation {
    Operation { task, event, action, on_failure }
}

/// The first part of a creation; a start may follow.
pub const CREATE: Operation =
    operation(TaskState::ContainerCreating, "compute__do_container_create", None, OnFailure::Fail);
/// A creation that no start follows.
pub const CREATE_ONLY: Operation =
    operation(TaskState::ContainerCreating, "compute__do_container_create", Some("create"), OnFailure::Fail);
/// The start that ends a creation.
pub const FIRST_START: Operation =
    operation(TaskState::ContainerStarting, "compute__do_container_start", Some("create"), OnFailure::Fail);
/// A start.
pub const START: Operation =
    operation(TaskState::ContainerStarting, "compute__do_container_start", Some("start"), OnFailure::Fail);
/// A stop.
pub const STOP: Operation =
    operation(TaskState::ContainerStopping, "compute__do_container_stop", Some("stop"), OnFailure::Keep);
/// A signal.
pub const KILL: Operation =
    operation(TaskState::ContainerKilling, "compute__do_container_kill", Some("kill"), OnFailure::Keep);
/// A stop and a start.
pub const REBOOT: Operation =
    operation(TaskState::ContainerRebooting, "compute__do_container_reboot", Some("reboot"), OnFailure::Fail);
/// The processors stand still.
pub const PAUSE: Operation =
    operation(TaskState::ContainerPausing, "compute__do_container_pause", Some("pause"), OnFailure::Keep);
/// They go on.
pub const UNPAUSE: Operation = operation(
    TaskState::ContainerUnpausing,
    "compute__do_container_unpause",
    Some("unpause"),
    OnFailure::Keep,
);
/// The container is made anew; a start may follow.
pub const REBUILD: Operation =
    operation(TaskState::ContainerRebuilding, "compute__do_container_rebuild", None, OnFailure::Fail);
/// A rebuild that no start follows.
pub const REBUILD_ONLY: Operation = operation(
    TaskState::ContainerRebuilding,
    "compute__do_container_rebuild",
    Some("rebuild"),
    OnFailure::Fail,
);
/// The start that ends a rebuild.
pub const REBUILT_START: Operation =
    operation(TaskState::ContainerStarting, "compute__do_container_start", Some("rebuild"), OnFailure::Fail);
/// An interface comes.
pub const ATTACH: Operation = operation(
    TaskState::NetworkAttaching,
    "compute__do_network_attach",
    Some("network_attach"),
    OnFailure::Keep,
);
/// An interface goes.
pub const DETACH: Operation = operation(
    TaskState::NetworkDetaching,
    "compute__do_network_detach",
    Some("network_detach"),
    OnFailure::Keep,
);
/// A security group comes.
pub const ADD_GROUP: Operation = operation(
    TaskState::SgAdding,
    "compute__add_security_group",
    Some("add_security_group"),
    OnFailure::Keep,
);
/// A security group goes.
pub const REMOVE_GROUP: Operation = operation(
    TaskState::SgRemoving,
    "compute__remove_security_group",
    Some("remove_security_group"),
    OnFailure::Keep,
);
/// The container and all it has goes.
pub const DELETE: Operation =
    operation(TaskState::ContainerDeleting, "compute__do_container_delete", Some("delete"), OnFailure::Fail);
