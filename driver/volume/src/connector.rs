use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::{iscsi, local, nfs, rbd};

/// This host, to which volumes are connected.
#[derive(Debug, Clone)]
pub struct Connector {
    host: String,
    ip: String,
    mounts: PathBuf,
    initiator_file: PathBuf,
}

impl Connector {
    /// The host of this name and address, which mounts exports below `mounts`, a folder for root alone.
    pub fn open(host: &str, ip: &str, mounts: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(mounts);
        made.map_err(Error::io("make", mounts))?;
        Ok(Self {
            host: host.to_owned(),
            ip: ip.to_owned(),
            mounts: mounts.to_owned(),
            initiator_file: "/etc/iscsi/initiatorname.iscsi".into(),
        })
    }

    /// What Cinder is told of this host, in os-brick's words.
    pub fn properties(&self) -> Value {
        json!({
            "host": self.host,
            "ip": self.ip,
            "initiator": self.initiator().unwrap_or_default(),
            "platform": "x86_64",
            "os_type": "linux",
            "multipath": false,
            "do_local_attach": false,
        })
    }

    /// Connects a volume and returns its device or file. Idempotent: succeeds if it is connected.
    pub async fn connect(&self, connection: &Connection) -> Result<PathBuf> {
        match connection {
            Connection::Iscsi(unit) => {
                self.initiator().ok_or_else(|| Error::NoInitiator(self.initiator_file.clone()))?;
                iscsi::connect(unit).await
            }
            Connection::Nfs(file) => nfs::connect(file, &self.mounts).await,
            Connection::Rbd(image) => rbd::connect(image).await,
            Connection::Local(device) => local::connect(device),
        }
    }

    /// Writes to a volume all that the kernel still holds of it, and disconnects it. Idempotent: succeeds if it is not connected.
    pub async fn disconnect(&self, connection: &Connection) -> Result<()> {
        match connection {
            Connection::Iscsi(unit) => iscsi::flush(unit).await?,
            Connection::Nfs(file) => nfs::flush(file, &self.mounts).await?,
            Connection::Rbd(image) => rbd::flush(image).await?,
            Connection::Local(device) => local::flush(device).await?,
        }
        self.abandon(connection).await
    }

    /// Disconnects a volume without its last writes. Idempotent: succeeds if it is not connected.
    pub async fn abandon(&self, connection: &Connection) -> Result<()> {
        match connection {
            Connection::Iscsi(unit) => iscsi::disconnect(unit).await,
            Connection::Nfs(file) => nfs::disconnect(file, &self.mounts).await,
            Connection::Rbd(image) => rbd::disconnect(image).await,
            Connection::Local(_) => Ok(()),
        }
    }

    fn initiator(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.initiator_file).ok()?;
        let name = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="))?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initiators_name_is_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("initiatorname.iscsi");
        let opened = Connector::open("h", "192.0.2.1", folder.path()).unwrap();
        let connector = Connector { initiator_file: file.clone(), ..opened };
        assert_eq!(connector.properties()["initiator"], "");
        std::fs::write(&file, "## a comment\nInitiatorName=iqn.1993-08.org.debian:01:abc\n").unwrap();
        assert_eq!(connector.properties()["initiator"], "iqn.1993-08.org.debian:01:abc");
        assert_eq!(connector.properties()["host"], "h");
    }
}
