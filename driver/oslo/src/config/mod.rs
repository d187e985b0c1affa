//! oslo.config's INI files as a source for the `config` crate.

mod files;
mod ini;

pub use files::{ConfigFiles, default_config_files};
