//! What `zun-wsproxy` connects to: the part of Docker's HTTP API that attaches to a container and starts an exec. Docker's
//! port is open to all who reach it; here each address holds a secret of its own, which serves once.

mod peer;
mod relay;
mod server;
mod sessions;
#[cfg(test)]
mod tests;
mod tls;

pub use server::serve;
pub use sessions::{ExecId, Resized, Sessions};
