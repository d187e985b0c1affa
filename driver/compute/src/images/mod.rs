//! Images: for containers, and for administrators who keep some on this host.

pub mod admin;
pub mod glance;
mod pull;

pub use pull::Images;
