/// Why this service cannot be run as it is configured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("{option}: {reason}")]
    Option { option: String, reason: String },
    #[error(transparent)]
    Files(#[from] config::ConfigError),
    #[error(transparent)]
    Database(#[from] model::UnsupportedUrl),
    #[error(transparent)]
    Keystone(#[from] cloud::Error),
    #[error(transparent)]
    Images(#[from] image::Error),
}

impl ConfigError {
    /// What is wrong with an option.
    pub fn of(option: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Option { option: option.into(), reason: reason.to_string() }
    }
}
