//! What a fresh guest is told: the time, random bytes, its name, its files; and of each interface that it gets.

use std::net::IpAddr;
use std::path::Path;

use agent_protocol::SANDBOX_DIR;
use agent_protocol::messages::{
    CopyFileRequest, CreateSandboxRequest, IPAddress, IPFamily, Interface, ReseedRandomDevRequest, Route,
    Routes, SetGuestDateTimeRequest, UpdateInterfaceRequest, UpdateRoutesRequest,
};
use agent_protocol::service::AgentServiceClient;
use protobuf::MessageField;
use shim_control::{Nic, NicAddress, NicRoute, SandboxPlan};
use time::OffsetDateTime;

use crate::agent::deadline;
use crate::error::{Error, Result};
use crate::machine::slot_address;

/// Bytes that a guest's generator is seeded with, twice the size of its key.
const SEED_SIZE: usize = 64;

/// Sets the guest up as the plan says.
pub async fn set_up(agent: &AgentServiceClient, plan: &SandboxPlan) -> Result<()> {
    make_unique(agent).await?;
    let sandbox = CreateSandboxRequest {
        hostname: plan.hostname.clone(),
        dns: plan.dns.iter().map(IpAddr::to_string).collect(),
        sandbox_id: plan.id.clone(),
        ..Default::default()
    };
    agent.create_sandbox(deadline(), &sandbox).await?;
    write_file(agent, "hosts", &plan.hosts).await?;
    Ok(())
}

/// Lets the guest use the interface in `slot`.
pub async fn set_up_nic(agent: &AgentServiceClient, slot: u8, nic: &Nic) -> Result<()> {
    update_interface(agent, interface(slot, nic)).await?;
    let routes = Routes { Routes: nic.routes.iter().map(|r| route(nic, r)).collect(), ..Default::default() };
    let routes = MessageField::some(routes);
    agent.update_routes(deadline(), &UpdateRoutesRequest { routes, ..Default::default() }).await?;
    Ok(())
}

/// Lets the guest no longer use the interface in `slot`.
pub async fn take_down_nic(agent: &AgentServiceClient, slot: u8) -> Result<()> {
    let slot = Interface { devicePath: slot_address(slot).to_string(), ..Default::default() };
    update_interface(agent, slot).await
}

async fn update_interface(agent: &AgentServiceClient, interface: Interface) -> Result<()> {
    let interface = MessageField::some(interface);
    agent.update_interface(deadline(), &UpdateInterfaceRequest { interface, ..Default::default() }).await?;
    Ok(())
}

/// A guest that goes on from a template has the template's clock and its generator's state, and so has one that made
/// it: both are replaced before any container starts.
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

fn interface(slot: u8, nic: &Nic) -> Interface {
    Interface {
        devicePath: slot_address(slot).to_string(),
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
