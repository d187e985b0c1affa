use std::fmt;
use std::str::FromStr;

use ::uuid::Uuid;
use serde::{Deserialize, Serialize};

/// A container's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerUuid(pub Uuid);

impl fmt::Display for ContainerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for ContainerUuid {
    type Err = ::uuid::Error;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for ContainerUuid {
    type Error = ::uuid::Error;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        text.parse()
    }
}
