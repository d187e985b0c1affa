use std::fmt;
use std::path::Path;

use crate::command::{Result, run};

/// The characters of a port's identifier that its tap's name has: with the prefix they fill an interface's name.
const ID_LENGTH: usize = 11;
const PREFIX: &str = "tap";

/// The name of a port's tap, which Neutron's agents derive in the same way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TapName(String);

impl TapName {
    /// The name for the port `id`.
    pub fn of_port(id: &str) -> Self {
        Self(format!("{PREFIX}{}", id.chars().take(ID_LENGTH).collect::<String>()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn exists(&self) -> bool {
        Path::new("/sys/class/net").join(&self.0).exists()
    }

    /// Makes the tap, up and with its MTU. One that is left over is made anew.
    pub(crate) async fn create(&self, mtu: u16) -> Result<()> {
        self.remove().await?;
        run("ip", &["tuntap", "add", "dev", &self.0, "mode", "tap", "vnet_hdr"]).await?;
        // The host must not speak on the guest's link.
        disable_ipv6(&self.0);
        run("ip", &["link", "set", "dev", &self.0, "mtu", &mtu.to_string(), "up"]).await?;
        Ok(())
    }

    /// Removes the tap, if there is one.
    pub(crate) async fn remove(&self) -> Result<()> {
        if self.exists() {
            run("ip", &["link", "delete", "dev", &self.0]).await?;
        }
        Ok(())
    }
}

fn disable_ipv6(interface: &str) {
    let setting = Path::new("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    if setting.exists()
        && let Err(e) = std::fs::write(&setting, "1")
    {
        tracing::warn!("{}: {e}", setting.display());
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_an_interface() {
        let name = TapName::of_port("d8c83230-3c87-41a2-84c8-7d9c36eb3277");
        assert_eq!(name.as_str(), "tapd8c83230-3c");
        assert!(name.as_str().len() < 16);
    }
}
