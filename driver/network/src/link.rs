//! Links of this host: taps, bridges and veth pairs.

use std::io;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::{Error, Result};
use crate::plugged::Plugged;

const LINKS: &str = "/sys/class/net";
/// Prefix of the alias of each link made here. The port's identifier follows, and a tap's owner.
const ALIAS: &str = "zun-kata ";

/// Whether there is a link of this name.
pub fn exists(name: &str) -> bool {
    Path::new(LINKS).join(name).exists()
}

/// The port of a link and the container whose tap it is, or `None` if the link was not made here.
pub fn plugged_by(name: &str) -> Option<Plugged> {
    parse(&std::fs::read_to_string(Path::new(LINKS).join(name).join("ifalias")).ok()?)
}

fn parse(alias: &str) -> Option<Plugged> {
    let mut words = alias.strip_prefix(ALIAS)?.split_whitespace();
    Some(Plugged { port: words.next()?.to_owned(), owner: words.next().map(str::to_owned) })
}

fn alias(plugged: &Plugged) -> String {
    let words = [Some(plugged.port.as_str()), plugged.owner.as_deref()];
    format!("{ALIAS}{}", words.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// The ports of all links that were made here.
pub fn made_here() -> io::Result<Vec<Plugged>> {
    let names = std::fs::read_dir(LINKS)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| plugged_by(&name)).collect())
}

/// Fails if the link `name` belongs to another port: names hold only the beginning of an identifier.
pub fn check_free(name: &str, port: &str) -> Result<()> {
    match plugged_by(name) {
        Some(Plugged { port: other, .. }) if other != port => {
            Err(Error::Taken { port: port.to_owned(), device: name.to_owned(), other })
        }
        _ => Ok(()),
    }
}

/// Makes a tap with this number of queue pairs, in place of one that is left over.
pub async fn create_tap(name: &str, plugged: &Plugged, mtu: u16, queue_pairs: u8) -> Result<()> {
    check_free(name, &plugged.port)?;
    remove(name).await?;
    // The kernel sets aside 256 queues for a tap that may have several.
    let several: &[&str] = if queue_pairs > 1 { &["multi_queue"] } else { &[] };
    run("ip", &[&["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"], several].concat()).await?;
    // The host must not speak on the guest's link.
    disable_ipv6(name);
    start(name, plugged, mtu).await
}

/// Makes a veth pair, in place of one that is left over.
pub async fn create_pair(one: &str, other: &str, port: &str, mtu: u16) -> Result<()> {
    check_free(one, port)?;
    remove(one).await?;
    run("ip", &["link", "add", "name", one, "type", "veth", "peer", "name", other]).await?;
    for name in [one, other] {
        disable_ipv6(name);
        start(name, &Plugged { port: port.to_owned(), owner: None }, mtu).await?;
    }
    Ok(())
}

/// Makes a Linux bridge without forwarding delay, spanning tree or address. Idempotent: succeeds if it exists.
pub async fn ensure_bridge(name: &str) -> Result<()> {
    if exists(name) {
        return Ok(());
    }
    match run("ip", &["link", "add", "name", name, "type", "bridge", "forward_delay", "0", "stp_state", "0"])
        .await
    {
        // Neutron's agent makes it too.
        Err(_) if exists(name) => {}
        made => made.map(|_| ())?,
    }
    disable_ipv6(name);
    run("ip", &["link", "set", "dev", name, "up"]).await.map(|_| ())
}

/// Names a link's port in its alias.
pub async fn name_owner(name: &str, port: &str) -> Result<()> {
    run("ip", &["link", "set", "dev", name, "alias", &format!("{ALIAS}{port}")]).await.map(|_| ())
}

/// Puts a link on a Linux bridge.
pub async fn put_on_bridge(name: &str, bridge: &str) -> Result<()> {
    run("ip", &["link", "set", "dev", name, "master", bridge]).await.map(|_| ())
}

/// Removes a link. Idempotent: succeeds if it is absent.
pub async fn remove(name: &str) -> Result<()> {
    if !exists(name) {
        return Ok(());
    }
    match run("ip", &["link", "delete", "dev", name]).await {
        // It was removed together with the other end of its pair.
        Err(_) if !exists(name) => Ok(()),
        removed => removed.map(|_| ()),
    }
}

async fn start(name: &str, plugged: &Plugged, mtu: u16) -> Result<()> {
    let (alias, mtu) = (alias(plugged), mtu.to_string());
    run("ip", &["link", "set", "dev", name, "alias", &alias, "mtu", &mtu, "up"]).await.map(|_| ())
}

fn disable_ipv6(name: &str) {
    let setting: PathBuf = Path::new("/proc/sys/net/ipv6/conf").join(name).join("disable_ipv6");
    if setting.exists()
        && let Err(e) = std::fs::write(&setting, "1")
    {
        tracing::warn!("{}: {e}", setting.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_names_a_port_and_a_taps_owner() {
        for owner in [None, Some("container".to_owned())] {
            let plugged = Plugged { port: "port".into(), owner };
            assert_eq!(parse(&format!("{}\n", alias(&plugged))), Some(plugged));
        }
        for others in ["", "\n", "zun-kata \n", "kuryr port"] {
            assert_eq!(parse(others), None, "{others:?}");
        }
    }
}
