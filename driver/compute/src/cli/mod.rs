//! The command line, beside the service.

pub mod check;
pub mod images;
mod orphans;
mod progress_bar;
pub mod sandbox;
