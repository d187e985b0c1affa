//! What the guest's kernel knows of the network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_protocol::messages::{IPAddress, IPFamily, Interface, Route};
use futures::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol,
};

use super::{Network, hex, netlink};
use crate::error::Result;

impl Network {
    /// All interfaces, with their addresses.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        let mut addresses = self.addresses().await?;
        let mut links = self.0.link().get().execute();
        let mut interfaces = Vec::new();
        while let Some(link) = links.try_next().await.map_err(netlink("list the interfaces"))? {
            let addresses = addresses.remove(&link.header.index).unwrap_or_default();
            interfaces.push(interface(&link, addresses));
        }
        Ok(interfaces)
    }

    /// The routes of the main table, of both families.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        Ok(self.main_table().await?.into_iter().map(|(_, route)| route).collect())
    }

    /// The routes that were added, as the kernel knows them: not those that addresses bring.
    pub(super) async fn added_routes(&self) -> Result<Vec<(RouteMessage, Route)>> {
        let mut routes = self.main_table().await?;
        routes.retain(|(message, _)| message.header.protocol == RouteProtocol::Static);
        Ok(routes)
    }

    async fn main_table(&self) -> Result<Vec<(RouteMessage, Route)>> {
        let names: HashMap<u32, String> = self.names().await?;
        let mut routes = Vec::new();
        for question in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut answers = self.0.route().get(question).execute();
            while let Some(answer) = answers.try_next().await.map_err(netlink("list the routes"))? {
                if answer.header.table == RouteHeader::RT_TABLE_MAIN {
                    let route = route(&answer, &names);
                    routes.push((answer, route));
                }
            }
        }
        Ok(routes)
    }

    async fn names(&self) -> Result<HashMap<u32, String>> {
        let mut links = self.0.link().get().execute();
        let mut names = HashMap::new();
        while let Some(link) = links.try_next().await.map_err(netlink("list the interfaces"))? {
            names.insert(link.header.index, interface(&link, Vec::new()).name);
        }
        Ok(names)
    }

    async fn addresses(&self) -> Result<HashMap<u32, Vec<IPAddress>>> {
        let mut all = self.0.address().get().execute();
        let mut addresses: HashMap<u32, Vec<_>> = HashMap::new();
        while let Some(found) = all.try_next().await.map_err(netlink("list addresses"))? {
            let mask = found.header.prefix_len.to_string();
            if let Some(ip) = ip_address(&found) {
                let address = IPAddress {
                    family: family(ip).into(),
                    address: ip.to_string(),
                    mask,
                    ..Default::default()
                };
                addresses.entry(found.header.index).or_default().push(address);
            }
        }
        Ok(addresses)
    }
}

pub(super) fn ip_address(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

pub(super) fn interface(link: &LinkMessage, addresses: Vec<IPAddress>) -> Interface {
    let mut interface = Interface { IPAddresses: addresses, ..Default::default() };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => name.clone_into(&mut interface.name),
            LinkAttribute::Mtu(mtu) => interface.mtu = (*mtu).into(),
            LinkAttribute::Address(address) => interface.hwAddr = hex(address),
            LinkAttribute::PermAddress(address) => interface.devicePath = hex(address),
            _ => {}
        }
    }
    interface.device.clone_from(&interface.name);
    interface.raw_flags = link.header.flags.bits();
    interface
}

fn route(message: &RouteMessage, names: &HashMap<u32, String>) -> Route {
    let mut route = Route { scope: u8::from(message.header.scope).into(), ..Default::default() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let prefix = message.header.destination_prefix_length;
                route.dest = ip_of(address).map(|ip| format!("{ip}/{prefix}")).unwrap_or_default();
                route.family = ip_of(address).map(family).unwrap_or_default().into();
            }
            RouteAttribute::Gateway(address) => {
                route.gateway = ip_of(address).map(|ip| ip.to_string()).unwrap_or_default();
                route.family = ip_of(address).map(family).unwrap_or_default().into();
            }
            RouteAttribute::PrefSource(address) => {
                route.source = ip_of(address).map(|ip| ip.to_string()).unwrap_or_default();
            }
            RouteAttribute::Oif(index) => route.device = names.get(index).cloned().unwrap_or_default(),
            _ => {}
        }
    }
    route
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn family(ip: IpAddr) -> IPFamily {
    if ip.is_ipv4() { IPFamily::v4 } else { IPFamily::v6 }
}
