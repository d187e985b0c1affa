//! Zun 18.0.0's objects, as they travel in messages (`zun/objects`) and as they stand in the database
//! (`zun/db/sqlalchemy/models.py`). One type serves both.

#![forbid(unsafe_code)]

mod action;
mod action_queue;
mod changes;
mod compute_node;
mod container;
mod cpuset;
mod database;
mod exec_instance;
mod image;
mod network;
mod registry;
mod service;
mod uuid;
mod versioned;
mod volume;
mod wire_cpu;
mod wire_json;
mod wire_time;

pub use action::{Outcome, Record, Recorded, Unfinished};
pub use action_queue::ActionQueue;
pub use changes::Changes;
pub use compute_node::{ComputeNode, NumaNode, NumaTopology};
pub use container::{Address, Addresses, Container, ContainerType, Status, TaskState, Usage};
pub use cpuset::Cpuset;
pub use database::{Database, DatabaseUrl, Error, Result, UnsupportedUrl};
pub use exec_instance::ExecInstance;
pub use image::Image;
pub use network::{RequestedNetwork, ZunNetwork};
pub use registry::Registry;
pub use service::{Service, heartbeat, is_up, service};
pub use sqlx::types::Json;
pub use uuid::ContainerUuid;
pub use versioned::{DecodeError, decode, encode, versioned};
pub use volume::{RequestedVolume, VolumeMapping};
