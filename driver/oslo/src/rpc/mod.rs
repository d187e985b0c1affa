//! Remote procedure calls in oslo.messaging's RabbitMQ format (`oslo_messaging/_drivers`).

mod client;
mod connection;
mod envelope;
mod error;
mod server;
mod topology;
mod transport_url;

pub use client::{CallError, Client};
pub use connection::{RabbitOptions, try_broker};
pub use error::RemoteError;
pub use server::{Dispatch, Server};
pub use topology::Target;
pub use transport_url::{ParseTransportUrlError, TransportUrl};
