use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;

/// What guests can mount.
const FSTYPE: &str = "ext4";

/// `[volume]`
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    pub fstype: String,
    pub timeout_wait_volume_available: u64,
    pub timeout_wait_volume_deleted: u64,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self { fstype: FSTYPE.into(), timeout_wait_volume_available: 60, timeout_wait_volume_deleted: 60 }
    }
}

impl VolumeOptions {
    /// Says which option cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.fstype == FSTYPE {
            return Ok(());
        }
        let reason = format!("{} is not supported, only {FSTYPE} is", self.fstype);
        Err(ConfigError::of("[volume] fstype", reason))
    }

    /// How long Cinder may take to make a volume.
    pub fn available_timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_wait_volume_available)
    }

    /// How long it may take to delete one.
    pub fn deleted_timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_wait_volume_deleted)
    }
}
