//! Setting up a guest: its time, random seed, name and network.

use std::net::IpAddr;
use std::path::Path;

use agent_protocol::SANDBOX_DIR;
use agent_protocol::messages::{
    CopyFileRequest, CreateSandboxRequest, IPAddress, IPFamily, Interface, ReseedRandomDevRequest, Route,
    Routes, SetGuestDateTimeRequest, UpdateInterfaceRequest, UpdateRoutesRequest,
};
use agent_protocol::service::AgentServiceClient;
use protobuf::MessageField;
use shim_control::{Network, Nic, NicAddress, NicRoute, SandboxPlan};
use time::OffsetDateTime;
use vmm::MacAddress;

use crate::agent::deadline;
use crate::error::{Error, Result};

/// Size of the seed of a guest's random number generator, twice the size of its key.
const SEED_SIZE: usize = 64;

/// Sets the guest up before its first container.
pub async fn set_up(agent: &AgentServiceClient, plan: &SandboxPlan) -> Result<()> {
    make_unique(agent).await?;
    let sandbox = CreateSandboxRequest {
        hostname: plan.hostname.clone(),
        sandbox_id: plan.id.clone(),
        ..Default::default()
    };
    agent.create_sandbox(deadline(), &sandbox).await?;
    Ok(())
}

/// Sets up the interface in the slot with permanent address `slot`.
pub async fn set_up_nic(agent: &AgentServiceClient, slot: MacAddress, nic: &Nic) -> Result<()> {
    update_interface(agent, interface(slot, nic)).await
}

/// Sets the guest's routes and files. Its interfaces must have been set up.
pub async fn set_network(agent: &AgentServiceClient, network: &Network) -> Result<()> {
    let routes = Routes { Routes: routes(&network.nics), ..Default::default() };
    let routes = UpdateRoutesRequest { routes: MessageField::some(routes), ..Default::default() };
    agent.update_routes(deadline(), &routes).await?;
    write_file(agent, "resolv.conf", &network.resolv_conf).await?;
    write_file(agent, "hosts", &network.hosts).await
}

/// Takes down the interface in the slot with permanent address `slot`.
pub async fn take_down_nic(agent: &AgentServiceClient, slot: MacAddress) -> Result<()> {
    let interface = Interface { devicePath: slot.to_string(), ..Default::default() };
    update_interface(agent, interface).await
}

async fn update_interface(agent: &AgentServiceClient, interface: Interface) -> Result<()> {
    let interface = MessageField::some(interface);
    agent.update_interface(deadline(), &UpdateInterfaceRequest { interface, ..Default::default() }).await?;
    Ok(())
}

/// Replaces the clock and the generator's state, which a guest shares with the template that it was restored from or
/// that it made.
async fn make_unique(agent: &AgentServiceClient) -> Result<()> {
    let mut data = vec![0; SEED_SIZE];
    getrandom::fill(&mut data).map_err(|e| Error::io("get random bytes")(std::io::Error::from(e)))?;
    agent.reseed_random_dev(deadline(), &ReseedRandomDevRequest { data, ..Default::default() }).await?;
    let now = OffsetDateTime::now_utc();
    let time = SetGuestDateTimeRequest {
        Sec: now.unix_timestamp(),
        Usec: i64::from(now.microsecond()),
        ..Default::default()
    };
    agent.set_guest_date_time(deadline(), &time).await?;
    Ok(())
}

async fn write_file(agent: &AgentServiceClient, name: &str, text: &str) -> Result<()> {
    let request = CopyFileRequest {
        path: Path::new(SANDBOX_DIR).join(name).to_string_lossy().into_owned(),
        file_size: text.len() as i64,
        file_mode: 0o644,
        dir_mode: 0o755,
        data: text.as_bytes().to_vec(),
        ..Default::default()
    };
    agent.copy_file(deadline(), &request).await?;
    Ok(())
}

fn interface(slot: MacAddress, nic: &Nic) -> Interface {
    Interface {
        devicePath: slot.to_string(),
        name: nic.name.clone(),
        mtu: u64::from(nic.mtu),
        hwAddr: nic.mac.clone(),
        IPAddresses: nic.addresses.iter().map(address).collect(),
        ..Default::default()
    }
}

fn address(address: &NicAddress) -> IPAddress {
    IPAddress {
        family: family(address.ip).into(),
        address: address.ip.to_string(),
        mask: address.prefix.to_string(),
        ..Default::default()
    }
}

/// The routes of all interfaces, with only the first default route of each family.
fn routes(nics: &[Nic]) -> Vec<Route> {
    let mut defaults = Vec::new();
    let all = nics.iter().flat_map(|nic| nic.routes.iter().map(move |route| (nic, route)));
    let used = all.filter(|(_, route)| {
        let (None, Some(gateway)) = (&route.destination, route.gateway) else { return true };
        let is_first = !defaults.contains(&gateway.is_ipv4());
        defaults.push(gateway.is_ipv4());
        is_first
    });
    used.map(|(nic, one)| route(nic, one)).collect()
}

fn route(nic: &Nic, route: &NicRoute) -> Route {
    let ip = route.gateway.or(route.destination.as_ref().map(|destination| destination.ip));
    Route {
        dest: route.destination.as_ref().map(|d| format!("{}/{}", d.ip, d.prefix)).unwrap_or_default(),
        gateway: route.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        device: nic.name.clone(),
        family: ip.map_or(IPFamily::v4, family).into(),
        ..Default::default()
    }
}

fn family(ip: IpAddr) -> IPFamily {
    if ip.is_ipv4() { IPFamily::v4 } else { IPFamily::v6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, gateways: &[&str]) -> Nic {
        let route = |gateway: &&str| NicRoute { destination: None, gateway: Some(gateway.parse().unwrap()) };
        Nic {
            tap: String::new(),
            mac: String::new(),
            mtu: 1450,
            name: name.into(),
            addresses: Vec::new(),
            routes: gateways.iter().map(route).collect(),
        }
    }

    #[test]
    fn the_first_interface_with_a_gateway_of_a_family_has_its_default_route() {
        let nics = [nic("eth0", &[]), nic("eth1", &["10.0.0.1"]), nic("eth2", &["10.1.0.1", "fd00::1"])];
        let routes: Vec<_> = routes(&nics).into_iter().map(|route| (route.device, route.gateway)).collect();
        let expected = [("eth1", "10.0.0.1"), ("eth2", "fd00::1")];
        assert_eq!(routes, expected.map(|(device, gateway)| (device.to_owned(), gateway.to_owned())));
    }
}
