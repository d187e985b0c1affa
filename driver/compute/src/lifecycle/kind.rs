use serde::{Deserialize, Serialize};

/// What differs between a container and a capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One container, whose end ends the sandbox.
    Container,
    /// Containers that come and go while the sandbox runs.
    Capsule,
}
