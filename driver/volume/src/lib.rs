//! Connecting: from what Cinder says of a volume to a block device or a raw file on this host, and back.
//!
//! iSCSI is spoken by open-iscsi and the kernel, NFS and RADOS by the kernel. What a tenant wrote is never parsed here: of a volume
//! only the size is known, and whether nothing has been written to it.

#![forbid(unsafe_code)]

mod blank;
mod connection;
mod connector;
mod error;
mod file_system;
mod iscsi;
mod iscsi_record;
mod local;
mod nfs;
mod program;
mod rbd;
mod sysfs;

pub use connection::Connection;
pub use connector::Connector;
pub use error::{Error, Result};
pub use file_system::{Origin, ensure_file_system};
