//! What a guest is told of its interfaces, its routes, and how it calls others.

use std::net::IpAddr;

use shim_control::{Network, Nic};

/// A guest's network.
#[derive(Debug, Clone, Default)]
pub struct GuestNetwork {
    /// Interfaces in order.
    pub nics: Vec<Nic>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Domains in which names are looked for; the first is the guest's own.
    pub search: Vec<String>,
}

impl GuestNetwork {
    pub(crate) fn of_guest(&self, hostname: &str) -> Network {
        Network { nics: self.nics.clone(), resolv_conf: self.resolv_conf(), hosts: self.hosts(hostname) }
    }

    fn resolv_conf(&self) -> String {
        let search =
            if self.search.is_empty() { None } else { Some(format!("search {}\n", self.search.join(" "))) };
        let servers = self.dns.iter().map(|server| format!("nameserver {server}\n"));
        search.into_iter().chain(servers).collect()
    }

    fn hosts(&self, hostname: &str) -> String {
        let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        let names = match self.search.first() {
            Some(domain) => format!("{hostname}.{domain} {hostname}"),
            None => hostname.to_owned(),
        };
        for address in self.nics.iter().flat_map(|nic| &nic.addresses) {
            text.push_str(&format!("{}\t{names}\n", address.ip));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use shim_control::NicAddress;

    use super::*;

    fn network(search: &[&str]) -> GuestNetwork {
        let address = |ip: &str| NicAddress { ip: ip.parse().unwrap(), prefix: 24 };
        let nic = Nic {
            tap: "tap".into(),
            mac: "fa:16:3e:00:00:01".into(),
            mtu: 1450,
            name: "eth0".into(),
            addresses: vec![address("10.0.0.5"), address("fd00::5")],
            routes: Vec::new(),
        };
        let dns = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        GuestNetwork { nics: vec![nic], dns, search: search.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_guest_knows_its_name_servers_and_its_domain() {
        let network = network(&["example.org", "other.org"]).of_guest("web");
        let expected = "search example.org other.org\nnameserver 10.0.0.2\nnameserver fd00::2\n";
        assert_eq!(network.resolv_conf, expected);
        assert!(network.hosts.ends_with("10.0.0.5\tweb.example.org web\nfd00::5\tweb.example.org web\n"));
    }

    #[test]
    fn a_guest_without_a_network_knows_itself() {
        let network = GuestNetwork::default().of_guest("web");
        assert_eq!(network.resolv_conf, "");
        assert_eq!(network.hosts.lines().count(), 2);
        assert!(self::network(&[]).of_guest("web").hosts.ends_with("fd00::5\tweb\n"));
    }
}
