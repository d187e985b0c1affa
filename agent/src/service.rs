//! `AgentService` on vsock.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use agent_protocol::messages::{
    AddARPNeighborsRequest, AgentDetails, ArchiveProcessRequest, CloseStdinRequest, CopyFileRequest,
    CreateContainerRequest, CreateSandboxRequest, DestroySandboxRequest, Empty, ExecProcessRequest,
    GuestDetailsRequest, GuestDetailsResponse, Interface, Interfaces, ListInterfacesRequest,
    ListProcessesRequest, ListProcessesResponse, ListRoutesRequest, OnlineCPUMemRequest,
    PauseContainerRequest, ReadStreamRequest, ReadStreamResponse, RemoveContainerRequest,
    ReseedRandomDevRequest, ResumeContainerRequest, Routes, SetGuestDateTimeRequest, SignalProcessRequest,
    StartContainerRequest, StatsContainerRequest, StatsContainerResponse, TtyWinResizeRequest,
    UpdateContainerRequest, UpdateInterfaceRequest, UpdateRoutesRequest, VolumeStatsRequest,
    VolumeStatsResponse, WaitProcessRequest, WaitProcessResponse, WriteStreamRequest, WriteStreamResponse,
};
use agent_protocol::service::{AgentService, create_agent_service};
use agent_protocol::{AGENT_PORT, SANDBOX_DIR, STORAGE_LOCAL, STORAGE_MMIO_BLOCK, STORAGE_OVERLAY};
use async_trait::async_trait;
use nix::libc::VMADDR_CID_HOST;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use protobuf::MessageField;
use tokio::sync::Notify;
use ttrpc::asynchronous::{Server, TtrpcContext};

use crate::containers::{Containers, Freezer};
use crate::cpus;
use crate::error::{Error, Result};
use crate::files;
use crate::identity;
use crate::listener;
use crate::network::Network;
use crate::reaper::Reaper;
use crate::stats;

const MEMORY_BLOCK_SIZE: &str = "/sys/devices/system/memory/block_size_bytes";

struct Agent {
    containers: Containers,
    network: Network,
    destroyed: Arc<Notify>,
}

/// Answers calls until the sandbox is destroyed, then stops the guest.
pub async fn serve() -> Result<()> {
    let reaper = Reaper::start()?;
    let network = Network::connect()?;
    network.start_loopback().await?;
    let destroyed = Arc::new(Notify::new());
    let agent =
        Arc::new(Agent { containers: Containers::new(reaper), network, destroyed: Arc::clone(&destroyed) });
    let mut server = Server::new()
        .add_listener(listener::listen()?)
        .register_service(create_agent_service(Arc::clone(&agent) as Arc<_>));
    server.start().await?;
    knock();
    destroyed.notified().await;
    agent.containers.remove_all().await;
    server.shutdown().await?;
    nix::unistd::sync();
    reboot(RebootMode::RB_AUTOBOOT).map_err(Error::io("stop the guest"))?;
    Ok(())
}

/// Tells the host that this agent listens, by trying to connect to it. Whether it lets us is of no matter.
fn knock() {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let tried = socket(AddressFamily::Vsock, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_HOST, AGENT_PORT)));
    match tried {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(e) => tracing::warn!("the host cannot be told that the agent listens: {e}"),
    }
}

impl Agent {
    fn set_hostname(name: &str) -> Result<()> {
        if name.is_empty() {
            return Ok(());
        }
        nix::unistd::sethostname(name).map_err(Error::io("set the host name"))?;
        Self::write_sandbox_file("hostname", &format!("{name}\n"))
    }

    fn write_sandbox_file(name: &str, text: &str) -> Result<()> {
        let path = Path::new(SANDBOX_DIR).join(name);
        std::fs::create_dir_all(SANDBOX_DIR)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(Error::io(format!("write {}", path.display())))
    }
}

/// The kernel writes it as a hexadecimal number without a prefix.
fn memory_block_size() -> u64 {
    let text = std::fs::read_to_string(MEMORY_BLOCK_SIZE).unwrap_or_default();
    u64::from_str_radix(text.trim(), 16).unwrap_or_default()
}

fn empty() -> ttrpc::Result<Empty> {
    Ok(Empty::default())
}

#[async_trait]
impl AgentService for Agent {
    async fn create_sandbox(&self, _: &TtrpcContext, request: CreateSandboxRequest) -> ttrpc::Result<Empty> {
        Self::set_hostname(&request.hostname)?;
        let servers: String = request.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        Self::write_sandbox_file("resolv.conf", &servers)?;
        empty()
    }

    async fn destroy_sandbox(&self, _: &TtrpcContext, _: DestroySandboxRequest) -> ttrpc::Result<Empty> {
        self.destroyed.notify_one();
        empty()
    }

    async fn get_guest_details(
        &self,
        _: &TtrpcContext,
        request: GuestDetailsRequest,
    ) -> ttrpc::Result<GuestDetailsResponse> {
        let details = AgentDetails {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            init_daemon: true,
            storage_handlers: [STORAGE_LOCAL, STORAGE_MMIO_BLOCK, STORAGE_OVERLAY].map(str::to_owned).into(),
            supports_seccomp: true,
            ..Default::default()
        };
        Ok(GuestDetailsResponse {
            mem_block_size_bytes: if request.mem_block_size { memory_block_size() } else { 0 },
            agent_details: MessageField::some(details),
            ..Default::default()
        })
    }

    async fn copy_file(&self, _: &TtrpcContext, request: CopyFileRequest) -> ttrpc::Result<Empty> {
        files::copy(&request)?;
        empty()
    }

    async fn reseed_random_dev(
        &self,
        _: &TtrpcContext,
        request: ReseedRandomDevRequest,
    ) -> ttrpc::Result<Empty> {
        identity::reseed(&request.data)?;
        empty()
    }

    async fn set_guest_date_time(
        &self,
        _: &TtrpcContext,
        request: SetGuestDateTimeRequest,
    ) -> ttrpc::Result<Empty> {
        identity::set_time(request.Sec, request.Usec)?;
        empty()
    }

    async fn online_cpu_mem(&self, _: &TtrpcContext, request: OnlineCPUMemRequest) -> ttrpc::Result<Empty> {
        cpus::online(request.nb_cpus as usize)?;
        empty()
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.create(&request).await?;
        empty()
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: StartContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.start(&request.container_id).await?;
        empty()
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: RemoveContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.remove(&request.container_id).await?;
        empty()
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.update(&request)?;
        empty()
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: PauseContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.freeze(&request.container_id, Freezer::Frozen).await?;
        empty()
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: ResumeContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.freeze(&request.container_id, Freezer::Thawed).await?;
        empty()
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: StatsContainerRequest,
    ) -> ttrpc::Result<StatsContainerResponse> {
        Ok(self.containers.stats(&request.container_id)?)
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: ListProcessesRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        if !matches!(request.format.as_str(), "" | "json") {
            return Err(Error::Format(request.format).into());
        }
        let all = self.containers.processes(&request.container_id)?;
        let process_list = serde_json::to_vec(&all).map_err(|e| Error::Runtime(e.to_string()))?;
        Ok(ListProcessesResponse { process_list, ..Default::default() })
    }

    async fn exec_process(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.containers.exec(&request).await?;
        empty()
    }

    async fn archive_process(
        &self,
        _: &TtrpcContext,
        request: ArchiveProcessRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.archive(&request)?;
        empty()
    }

    async fn signal_process(&self, _: &TtrpcContext, request: SignalProcessRequest) -> ttrpc::Result<Empty> {
        self.containers.signal(&request.container_id, &request.exec_id, request.signal)?;
        empty()
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: WaitProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let status = self.containers.process(&request.container_id, &request.exec_id)?.wait().await?;
        self.containers.forget_process(&request.container_id, &request.exec_id);
        Ok(WaitProcessResponse { status, ..Default::default() })
    }

    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: WriteStreamRequest,
    ) -> ttrpc::Result<WriteStreamResponse> {
        let process = self.containers.process(&request.container_id, &request.exec_id)?;
        process.write_stdin(&request.data).await?;
        Ok(WriteStreamResponse { len: request.data.len() as u32, ..Default::default() })
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: ReadStreamRequest,
    ) -> ttrpc::Result<ReadStreamResponse> {
        let process = self.containers.process(&request.container_id, &request.exec_id)?;
        let data = process.read_stdout(request.len as usize).await?;
        Ok(ReadStreamResponse { data, ..Default::default() })
    }

    async fn read_stderr(
        &self,
        _: &TtrpcContext,
        request: ReadStreamRequest,
    ) -> ttrpc::Result<ReadStreamResponse> {
        let process = self.containers.process(&request.container_id, &request.exec_id)?;
        let data = process.read_stderr(request.len as usize).await?;
        Ok(ReadStreamResponse { data, ..Default::default() })
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: CloseStdinRequest) -> ttrpc::Result<Empty> {
        self.containers.process(&request.container_id, &request.exec_id)?.close_stdin();
        empty()
    }

    async fn tty_win_resize(&self, _: &TtrpcContext, request: TtyWinResizeRequest) -> ttrpc::Result<Empty> {
        let process = self.containers.process(&request.container_id, &request.exec_id)?;
        let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        process.resize(characters(request.row), characters(request.column))?;
        empty()
    }

    async fn update_interface(
        &self,
        _: &TtrpcContext,
        request: UpdateInterfaceRequest,
    ) -> ttrpc::Result<Interface> {
        let interface = request.interface.unwrap_or_default();
        self.network.update_interface(&interface).await?;
        Ok(interface)
    }

    async fn update_routes(&self, _: &TtrpcContext, request: UpdateRoutesRequest) -> ttrpc::Result<Routes> {
        let routes = request.routes.unwrap_or_default();
        self.network.update_routes(&routes.Routes).await?;
        Ok(routes)
    }

    async fn list_interfaces(&self, _: &TtrpcContext, _: ListInterfacesRequest) -> ttrpc::Result<Interfaces> {
        Ok(Interfaces { Interfaces: self.network.interfaces().await?, ..Default::default() })
    }

    async fn list_routes(&self, _: &TtrpcContext, _: ListRoutesRequest) -> ttrpc::Result<Routes> {
        Ok(Routes { Routes: self.network.routes().await?, ..Default::default() })
    }

    async fn add_arp_neighbors(
        &self,
        _: &TtrpcContext,
        request: AddARPNeighborsRequest,
    ) -> ttrpc::Result<Empty> {
        self.network.add_neighbours(&request.neighbors.get_or_default().ARPNeighbors).await?;
        empty()
    }

    async fn get_volume_stats(
        &self,
        _: &TtrpcContext,
        request: VolumeStatsRequest,
    ) -> ttrpc::Result<VolumeStatsResponse> {
        Ok(stats::volume(Path::new(&request.volume_guest_path))?)
    }
}
