//! Creations that this service has taken and no row names this host for yet. Others have made something for them: Placement an
//! allocation, Cinder volumes. If the service dies, nobody else would know.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use model::{Container, ContainerUuid};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::record::{read_json, remove_torn, write_json};

const SUFFIX: &str = ".json";

/// The creations that are taken, one file each.
#[derive(Debug, Clone)]
pub struct Creations(PathBuf);

/// A creation that is taken.
#[derive(Debug)]
pub struct Taken {
    /// The row as the API sent it.
    pub row: Container,
    /// The rows of the volumes that are asked for it.
    pub volumes: Vec<i32>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    row: Value,
    volumes: Vec<i32>,
}

impl Creations {
    /// Creations that are kept in `folder`, which is made if it is absent.
    pub fn open(folder: PathBuf) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(Error::Creations)?;
        remove_torn(&folder).map_err(Error::Creations)?;
        Ok(Self(folder))
    }

    /// Remembers one.
    pub fn take(&self, row: &Container, volumes: Vec<i32>) -> Result<()> {
        let row_on_wire = row.to_wire().map_err(Error::from_json)?;
        write_json(&self.0, &name(row.uuid), &Written { row: row_on_wire, volumes })
    }

    /// Forgets one that has come to its end, or whose row names a host. Idempotent.
    pub fn forget(&self, uuid: ContainerUuid) {
        if let Err(e) = fs::remove_file(self.0.join(name(uuid)))
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(container = %uuid, error = %e, "that a creation has ended is not recorded");
        }
    }

    /// Those that an earlier life of this service has left. One that cannot be read is left out.
    pub fn left(&self) -> Result<Vec<Taken>> {
        let entries = fs::read_dir(&self.0).map_err(Error::Creations)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let read = |name: String| {
            let written: Written = read_json(&self.0, &name)?;
            Ok::<_, Error>(Taken { row: Container::from_wire(&written.row)?, volumes: written.volumes })
        };
        let all = names.filter(|name| name.ends_with(SUFFIX)).map(read);
        let logged = all.filter_map(|taken| {
            taken
                .inspect_err(|e| tracing::error!(error = %e, "a creation that was lost is not taken back"))
                .ok()
        });
        Ok(logged.collect())
    }
}

fn name(uuid: ContainerUuid) -> String {
    format!("{uuid}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_is_remembered_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let creations = Creations::open(folder.path().join("creations")).unwrap();
        assert!(creations.left().unwrap().is_empty());
        let captured = include_str!("../../model/tests/container.json");
        let row = Container::from_wire(&serde_json::from_str(captured).unwrap()).unwrap();
        creations.take(&row, vec![7]).unwrap();
        fs::write(folder.path().join("creations/torn.json"), "{").unwrap();
        let left = creations.left().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(
            (left[0].row.uuid, &left[0].row.image, &left[0].volumes[..]),
            (row.uuid, &row.image, &[7][..])
        );
        let torn = folder.path().join(format!("creations/{}.new.77", name(row.uuid)));
        fs::write(&torn, "{").unwrap();
        assert_eq!(Creations::open(folder.path().join("creations")).unwrap().left().unwrap().len(), 1);
        assert!(!torn.exists());
        creations.forget(row.uuid);
        creations.forget(row.uuid);
        assert!(creations.left().unwrap().is_empty());
    }
}
