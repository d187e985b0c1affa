//! Zun's RPC (`zun/compute/rpcapi.py`): a message is parsed whole before anything acts, then queued or answered.

mod admission;
mod arguments;
mod request;
mod server;

pub use admission::Admission;
pub use server::Server;
