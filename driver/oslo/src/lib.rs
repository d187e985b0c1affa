//! What OpenStack services share: remote procedure calls over RabbitMQ in oslo.messaging's format, oslo.config's
//! files, and the request context that travels with a call.

#![forbid(unsafe_code)]

mod config;
mod context;
mod rpc;

pub use config::{ConfigFiles, default_config_files};
pub use context::RequestContext;
pub use rpc::{
    Answer, Call, CallError, Client, Dispatch, Endpoint, ParseTransportUrlError, RabbitOptions, RemoteError,
    Served, Server, Target, TransportUrl, Version, try_broker,
};
