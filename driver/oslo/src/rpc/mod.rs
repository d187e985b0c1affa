//! Remote procedure calls in oslo.messaging's RabbitMQ format (`oslo_messaging/_drivers`).

mod call;
mod client;
mod connection;
mod envelope;
mod error;
mod publish;
mod replies;
mod server;
mod topology;
mod transport_url;

pub use call::{Call, Endpoint, Version};
pub use client::{CallError, Client};
pub use connection::{RabbitOptions, try_broker};
pub use error::RemoteError;
pub use server::{Answer, Dispatch, Served, Server};
pub use topology::Target;
pub use transport_url::{ParseTransportUrlError, TransportUrl};
