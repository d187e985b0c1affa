//! The guest's interfaces, addresses and routes. The host says what they are: what routers of the network announce is not
//! listened to.

mod list;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use agent_protocol::messages::{ARPNeighbor, IPAddress, Interface, Route};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::error::{Error, Result};

const HARDWARE_ADDRESS_SIZE: usize = 6;

/// A connection to the kernel's routing tables.
pub struct Network(Handle);

impl Network {
    /// Connects, on the current tokio runtime.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) = new_connection().map_err(Error::io("open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Brings the loopback interface up.
    pub async fn start_loopback(&self) -> Result<()> {
        const LOOPBACK: u32 = 1;
        self.change(LinkUnspec::new_with_index(LOOPBACK).up().build(), "bring the loopback interface up")
            .await
    }

    /// Gives an interface its hardware address, name, MTU and addresses, which are then all that it has, and starts it. It
    /// is found by its permanent address, or by its present one. One that is to have no hardware address is stopped.
    pub async fn update_interface(&self, interface: &Interface) -> Result<()> {
        let known_by =
            if interface.devicePath.is_empty() { &interface.hwAddr } else { &interface.devicePath };
        let link = self.find(known_by).await?;
        let index = link.header.index;
        if interface.hwAddr.is_empty() {
            return self.stop(index).await;
        }
        let mut change = LinkUnspec::new_with_index(index);
        let address = parse_hex(&interface.hwAddr)?;
        // A change to the same would make it forget its neighbours.
        if !link.attributes.contains(&LinkAttribute::Address(address.clone())) {
            change = change.address(address);
        }
        // The kernel renames no interface that is up, not even to what it is called.
        let named = LinkAttribute::IfName(interface.name.clone());
        if !interface.name.is_empty() && !link.attributes.contains(&named) {
            self.free_name(&interface.name, index).await?;
            change = change.name(interface.name.clone());
        }
        if interface.mtu > 0 {
            change = change.mtu(u32::try_from(interface.mtu).unwrap_or(u32::MAX));
        }
        self.change(change.build(), "set up an interface").await?;
        ignore_announcements(&self.name_of(index).await?);
        let addresses = interface.IPAddresses.iter().map(parse_address).collect::<Result<Vec<_>>>()?;
        self.remove_addresses(index, |ip, prefix| !addresses.contains(&(ip, prefix)) && !is_link_local(ip))
            .await?;
        for (ip, prefix) in addresses {
            self.0
                .address()
                .add(index, ip, prefix)
                .replace()
                .execute()
                .await
                .map_err(netlink(format!("add address {ip}/{prefix}")))?;
        }
        self.change(LinkUnspec::new_with_index(index).up().build(), "start an interface").await
    }

    /// Takes an interface out of use, and its addresses away; its routes go with them.
    async fn stop(&self, index: u32) -> Result<()> {
        self.remove_addresses(index, |_, _| true).await?;
        self.change(LinkUnspec::new_with_index(index).down().build(), "stop an interface").await
    }

    async fn remove_addresses(&self, index: u32, goes: impl Fn(IpAddr, u8) -> bool) -> Result<()> {
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        while let Some(address) = addresses.try_next().await.map_err(netlink("list addresses"))? {
            if list::ip_address(&address).is_some_and(|ip| goes(ip, address.header.prefix_len)) {
                self.0.address().del(address).execute().await.map_err(netlink("remove an address"))?;
            }
        }
        Ok(())
    }

    /// Makes sure that an interface can have `name`: slots that nothing is in yet have names already, by the kernel's own
    /// count. One that is in use keeps its own.
    async fn free_name(&self, name: &str, wanted_by: u32) -> Result<()> {
        let mut links = self.0.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(netlink("list the interfaces"))? {
            let named =
                |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(n) if n == name);
            let (index, unused) = (link.header.index, !link.header.flags.contains(LinkFlags::Up));
            if index != wanted_by && unused && link.attributes.iter().any(named) {
                let change = LinkUnspec::new_with_index(index).name(format!("slot{index}"));
                self.change(change.build(), "rename an interface").await?;
            }
        }
        Ok(())
    }

    /// Tells the kernel the hardware addresses of neighbours, so that it need not ask for them.
    pub async fn add_neighbours(&self, neighbours: &[ARPNeighbor]) -> Result<()> {
        for neighbour in neighbours {
            let address = &neighbour.toIPAddress.get_or_default().address;
            let index = self.index_named(&neighbour.device).await?;
            let state = u16::try_from(neighbour.state).unwrap_or_default();
            let request = self.0.neighbours().add(index, parse_ip(address)?).replace();
            request
                .state(NeighbourState::from(state))
                .link_layer_address(&parse_hex(&neighbour.lladdr)?)
                .execute()
                .await
                .map_err(netlink(format!("add neighbour {address}")))?;
        }
        Ok(())
    }

    /// Makes these the guest's routes, beside those that its addresses bring. Those without a gateway come first, since
    /// gateways are reached through them; what was a route before goes last, so that no connection is without one.
    pub async fn update_routes(&self, routes: &[Route]) -> Result<()> {
        let wanted =
            routes.iter().map(|route| Ok((target(route)?, &route.device))).collect::<Result<Vec<_>>>()?;
        let (direct, via): (Vec<_>, Vec<_>) = routes.iter().partition(|route| route.gateway.is_empty());
        for route in direct.into_iter().chain(via) {
            self.add_route(route).await?;
        }
        for (message, route) in self.added_routes().await? {
            if target(&route).is_ok_and(|target| !wanted.contains(&(target, &route.device))) {
                self.0.route().del(message).execute().await.map_err(netlink("remove a route"))?;
            }
        }
        Ok(())
    }

    async fn add_route(&self, route: &Route) -> Result<()> {
        let index = self.index_named(&route.device).await?;
        let message = route_message(route)?.output_interface(index);
        let what = format!("add a route to {:?} through {:?}", route.dest, route.gateway);
        self.0.route().add(message.build()).replace().execute().await.map_err(netlink(what))
    }

    async fn find(&self, hardware_address: &str) -> Result<LinkMessage> {
        let wanted = hardware_address.to_ascii_lowercase();
        let mut links = self.0.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(netlink("list the interfaces"))? {
            let matches = link.attributes.iter().any(|attribute| match attribute {
                LinkAttribute::Address(bytes) | LinkAttribute::PermAddress(bytes) => hex(bytes) == wanted,
                _ => false,
            });
            if matches {
                return Ok(link);
            }
        }
        Err(Error::NoInterface(hardware_address.to_owned()))
    }

    async fn index_named(&self, name: &str) -> Result<u32> {
        let mut links = self.0.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.map_err(netlink(format!("find interface {name:?}")))?;
        link.map(|link| link.header.index).ok_or_else(|| Error::NoInterface(name.to_owned()))
    }

    async fn name_of(&self, index: u32) -> Result<String> {
        let mut links = self.0.link().get().match_index(index).execute();
        let link = links.try_next().await.map_err(netlink("find an interface"))?;
        link.map(|link| list::interface(&link, Vec::new()).name)
            .ok_or_else(|| Error::NoInterface(index.to_string()))
    }

    async fn change(&self, message: LinkMessage, what: &str) -> Result<()> {
        self.0.link().set(message).execute().await.map_err(netlink(what))
    }
}

/// Lets an interface have the addresses that it is given at once and no others: neither does it listen to routers, nor
/// does it ask whether somebody has an address already, which Neutron sees to.
fn ignore_announcements(interface: &str) {
    for setting in ["accept_ra", "autoconf", "accept_dad"] {
        let path = Path::new("/proc/sys/net/ipv6/conf").join(interface).join(setting);
        if let Err(e) = std::fs::write(&path, "0") {
            tracing::warn!("{}: {e}", path.display());
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Where a route leads: its destination and the next hop.
type Target = (IpAddr, u8, Option<IpAddr>);

/// A route without a destination is its family's default route.
fn target(route: &Route) -> Result<Target> {
    let gateway = if route.gateway.is_empty() { None } else { Some(parse_ip(&route.gateway)?) };
    let (ip, prefix) = match gateway {
        Some(IpAddr::V4(_)) if route.dest.is_empty() => (Ipv4Addr::UNSPECIFIED.into(), 0),
        Some(IpAddr::V6(_)) if route.dest.is_empty() => (Ipv6Addr::UNSPECIFIED.into(), 0),
        _ => parse_prefix(&route.dest)?,
    };
    Ok((ip, prefix, gateway))
}

fn route_message(route: &Route) -> Result<RouteMessageBuilder<IpAddr>> {
    let message = RouteMessageBuilder::<IpAddr>::new();
    let (ip, prefix, gateway) = target(route)?;
    let message = message.destination_prefix(ip, prefix).map_err(|_| Error::Address(route.dest.clone()))?;
    match gateway {
        None => Ok(message.scope(RouteScope::Link)),
        Some(gateway) if gateway.is_ipv4() != ip.is_ipv4() => Err(Error::Address(route.gateway.clone())),
        Some(gateway) => {
            let message = message.gateway(gateway).map_err(|_| Error::Address(route.gateway.clone()))?;
            Ok(message.onlink())
        }
    }
}

fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Netlink { what: what.into(), source: Box::new(source) }
}

fn hex(bytes: &[u8]) -> String {
    let octets: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    octets.join(":")
}

fn parse_hex(address: &str) -> Result<Vec<u8>> {
    let octets = address.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Vec<_> =
        octets.collect::<std::result::Result<_, _>>().map_err(|_| Error::Address(address.to_owned()))?;
    if octets.len() == HARDWARE_ADDRESS_SIZE { Ok(octets) } else { Err(Error::Address(address.to_owned())) }
}

fn parse_ip(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::Address(text.to_owned()))
}

fn parse_address(address: &IPAddress) -> Result<(IpAddr, u8)> {
    parse_prefix(&format!("{}/{}", address.address, address.mask))
}

fn parse_prefix(text: &str) -> Result<(IpAddr, u8)> {
    let error = || Error::Address(text.to_owned());
    let (ip, prefix) = text.split_once('/').ok_or_else(error)?;
    let ip = parse_ip(ip)?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(error)?;
    Ok((ip, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dest: &str, gateway: &str) -> Route {
        Route { dest: dest.into(), gateway: gateway.into(), ..Default::default() }
    }

    #[test]
    fn routes_have_a_destination_of_their_gateways_family() {
        for (dest, gateway) in [
            ("", "10.0.0.1"),
            ("", "fd00::1"),
            ("10.1.0.0/16", "10.0.0.1"),
            ("10.1.0.0/16", ""),
            ("fd01::/64", "fd00::1"),
        ] {
            assert!(route_message(&route(dest, gateway)).is_ok(), "{dest:?} through {gateway:?}");
        }
        for (dest, gateway) in [("", ""), ("10.1.0.0/16", "fd00::1"), ("10.1.0.0/16", "x"), ("x", "10.0.0.1")]
        {
            assert!(route_message(&route(dest, gateway)).is_err(), "{dest:?} through {gateway:?}");
        }
    }

    #[test]
    fn a_route_is_known_by_where_it_leads() {
        let default = target(&route("", "10.0.0.1")).unwrap();
        assert_eq!(default, target(&route("0.0.0.0/0", "10.0.0.1")).unwrap());
        assert_ne!(default, target(&route("", "10.0.0.2")).unwrap());
        assert!(is_link_local("fe80::1".parse().unwrap()) && !is_link_local("fd00::1".parse().unwrap()));
    }

    #[test]
    fn a_hardware_address_has_six_octets() {
        assert_eq!(parse_hex("fa:16:3e:00:A1:ff").unwrap(), [0xfa, 0x16, 0x3e, 0, 0xa1, 0xff]);
        for bad in ["", "fa:16:3e:00:a1", "fa:16:3e:00:a1:ff:00", "fa:16:3e:00:a1:xx"] {
            assert!(parse_hex(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn prefixes_are_bounded_by_their_family() {
        assert_eq!(parse_prefix("10.0.0.0/8").unwrap(), ("10.0.0.0".parse().unwrap(), 8));
        assert_eq!(parse_prefix("fd00::1/128").unwrap(), ("fd00::1".parse().unwrap(), 128));
        for bad in ["10.0.0.1", "10.0.0.1/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert!(parse_prefix(bad).is_err(), "{bad:?} was taken");
        }
    }
}
