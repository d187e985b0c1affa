//! Which taps a running sandbox has, as this host remembers them. What its shim would say of them is as trustworthy as the
//! guest.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use shim_control::{DeviceTraffic, write_atomically};

use crate::error::{Error, Result};
use crate::tap::TapCounters;

/// In the sandbox's folder, out of the shim's reach.
const FILE: &str = "taps.json";

/// Taps by the hardware addresses of their interfaces.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plugged(BTreeMap<String, String>);

impl Plugged {
    /// Those of the sandbox in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io("read", path)(e)),
            Ok(text) => {
                serde_json::from_slice(&text).map(Self).map_err(|e| Error::io("read", path)(e.into()))
            }
        }
    }

    /// Remembers one more.
    pub fn add(folder: &Path, mac: &str, tap: &str) -> Result<()> {
        let mut taps = Self::read(folder)?;
        taps.0.insert(mac.to_owned(), tap.to_owned());
        taps.write(folder)
    }

    /// Forgets one.
    pub fn remove(folder: &Path, mac: &str) -> Result<()> {
        let mut taps = Self::read(folder)?;
        if taps.0.remove(mac).is_some() { taps.write(folder) } else { Ok(()) }
    }

    /// Forgets all.
    pub fn forget(folder: &Path) -> Result<()> {
        crate::files::remove(&folder.join(FILE))
    }

    /// Counts what went through an interface where the host counts it.
    pub fn count(&self, device: &mut DeviceTraffic) {
        if let Some(counters) = self.0.get(&device.device).and_then(|tap| TapCounters::read(tap)) {
            (device.incoming, device.outgoing) = (counters.incoming, counters.outgoing);
        }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec(&self.0).map_err(std::io::Error::from);
        text.and_then(|text| write_atomically(&path, &text)).map_err(Error::io("write", path))
    }
}

#[cfg(test)]
mod tests {
    use shim_control::Flow;

    use super::*;

    #[test]
    fn an_interface_is_counted_by_the_host() {
        let folder = tempfile::tempdir().unwrap();
        Plugged::add(folder.path(), "fa:16:3e:00:00:01", "lo").unwrap();
        Plugged::add(folder.path(), "fa:16:3e:00:00:02", "none").unwrap();
        Plugged::remove(folder.path(), "fa:16:3e:00:00:02").unwrap();
        let said = Flow { bytes: u64::MAX, operations: 7 };
        let device = |mac: &str| DeviceTraffic { device: mac.into(), incoming: said, outgoing: said };
        let taps = Plugged::read(folder.path()).unwrap();
        let (mut known, mut unknown) = (device("fa:16:3e:00:00:01"), device("fa:16:3e:00:00:02"));
        taps.count(&mut known);
        taps.count(&mut unknown);
        assert!(known.incoming != said && unknown.incoming == said);
        Plugged::forget(folder.path()).unwrap();
        assert_eq!(Plugged::read(folder.path()).unwrap(), Plugged::default());
    }
}
