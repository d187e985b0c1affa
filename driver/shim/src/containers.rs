//! Containers and processes, through the guest's agent.

use std::sync::{Arc, Mutex, PoisonError};

use agent_protocol::messages::{
    CloseStdinRequest, CreateContainerRequest, ExecProcessRequest, ListProcessesRequest, ReadStreamRequest,
    RemoveContainerRequest, SignalProcessRequest, StartContainerRequest, StatsContainerRequest, StringUser,
    UpdateContainerRequest, WaitProcessRequest, WriteStreamRequest,
};
use agent_protocol::service::AgentServiceClient;
use agent_protocol::{
    OOM_KILL, OVERLAY_CREATE_DIRECTORY, STORAGE_LOCAL, STORAGE_MMIO_BLOCK, STORAGE_OVERLAY, messages,
    process_to_wire, resources_to_wire, spec_to_wire,
};
use protobuf::MessageField;
use shim_control::{
    ContainerProcess, ContainerUser, CreateContainer, Exec, ExecResult, LogStream, NetworkCounters,
    ProcessInput, Signal, SignalTarget, Stats, Storage, StorageDriver, Update,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::agent::{creation_deadline, deadline, no_deadline};
use crate::error::{Error, Result};
use crate::output::Output;

/// A shell's exit statuses for a program that cannot be executed, and for one that does not exist.
const STATUS_NOT_EXECUTABLE: i32 = 126;
const STATUS_NOT_FOUND: i32 = 127;
const SIGKILL: u32 = 9;
const READ_LENGTH: u32 = 32 * 1024;
/// Most bytes of output that one `exec` keeps.
const EXEC_OUTPUT_MAX: usize = 1 << 20;

/// Makes a container and starts a task that keeps its output. The task ends with both streams.
pub async fn create(
    agent: &AgentServiceClient,
    container: &CreateContainer,
    output: Arc<Output>,
) -> Result<JoinHandle<()>> {
    let request = CreateContainerRequest {
        container_id: container.id.clone(),
        string_user: MessageField::some(user(&container.user)),
        storages: container.storages.iter().map(storage).collect(),
        OCI: MessageField::some(spec_to_wire(&container.spec)?),
        sandbox_pidns: container.shares_pids,
        ..Default::default()
    };
    agent.create_container(creation_deadline(), &request).await?;
    if container.input == ProcessInput::Closed {
        close_input(agent, &container.id, &container.id).await?;
    }
    let (agent, id) = (agent.clone(), container.id.clone());
    Ok(tokio::spawn(async move {
        let keep = |stream| keep(&agent, &id, stream, &output);
        tokio::join!(keep(LogStream::Stdout), keep(LogStream::Stderr));
    }))
}

/// Starts a container's process.
pub async fn start(agent: &AgentServiceClient, id: &str) -> Result<()> {
    agent
        .start_container(
            creation_deadline(),
            &StartContainerRequest { container_id: id.to_owned(), ..Default::default() },
        )
        .await?;
    Ok(())
}

/// Kills the container's remaining processes and removes it. Idempotent: succeeds if the container is absent.
pub async fn remove(agent: &AgentServiceClient, id: &str) -> Result<()> {
    let request = RemoveContainerRequest { container_id: id.to_owned(), ..Default::default() };
    match agent.remove_container(creation_deadline(), &request).await {
        Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::NOT_FOUND => Ok(()),
        answer => Ok(answer.map(|_| ())?),
    }
}

/// Waits for the end of a process, and returns its exit status.
pub async fn wait(agent: &AgentServiceClient, container: &str, exec: &str) -> Result<i32> {
    let request = WaitProcessRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        ..Default::default()
    };
    Ok(agent.wait_process(no_deadline(), &request).await?.status)
}

/// Signals a container.
pub async fn signal(agent: &AgentServiceClient, signal: &Signal) -> Result<()> {
    let process = match signal.target {
        SignalTarget::First => &signal.container,
        SignalTarget::All => "",
    };
    signal_process(agent, &signal.container, process, signal.number).await
}

/// Signals one process of a container; if `process` is empty, all of them.
pub async fn signal_process(
    agent: &AgentServiceClient,
    container: &str,
    process: &str,
    number: u32,
) -> Result<()> {
    let (container_id, exec_id) = (container.to_owned(), process.to_owned());
    let request = SignalProcessRequest { container_id, exec_id, signal: number, ..Default::default() };
    agent.signal_process(deadline(), &request).await?;
    Ok(())
}

/// Runs a process to its end; `None` if it was killed at its time limit. For a program that cannot be run, returns a
/// shell's message and status.
pub async fn exec(agent: &AgentServiceClient, exec: &Exec) -> Result<Option<ExecResult>> {
    let id = Uuid::new_v4().to_string();
    if let Err(e) = spawn(agent, &id, exec).await {
        return unrunnable(e).map(Some);
    }
    let run = run_to_end(agent, &exec.container, &id);
    let Some(limit) = exec.time_limit else { return run.await.map(Some) };
    match tokio::time::timeout(limit, run).await {
        Ok(result) => result.map(Some),
        Err(_) => {
            signal_process(agent, &exec.container, &id, SIGKILL).await?;
            wait(agent, &exec.container, &id).await?;
            Ok(None)
        }
    }
}

async fn run_to_end(agent: &AgentServiceClient, container: &str, id: &str) -> Result<ExecResult> {
    close_input(agent, container, id).await?;
    let output = Mutex::new(Vec::new());
    tokio::join!(
        gather(agent, container, id, LogStream::Stdout, &output),
        gather(agent, container, id, LogStream::Stderr, &output)
    );
    let status = wait(agent, container, id).await?;
    let output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(ExecResult { output: String::from_utf8_lossy(&output).into_owned(), status })
}

/// Makes a process in a container.
pub async fn spawn(agent: &AgentServiceClient, id: &str, exec: &Exec) -> Result<()> {
    let request = ExecProcessRequest {
        container_id: exec.container.clone(),
        exec_id: id.to_owned(),
        string_user: MessageField::some(user(&exec.user)),
        process: MessageField::some(process_to_wire(&exec.process)?),
        ..Default::default()
    };
    agent.exec_process(deadline(), &request).await?;
    Ok(())
}

/// A shell's message and status for a program that cannot be run; other errors are returned unchanged.
pub fn unrunnable(error: Error) -> Result<ExecResult> {
    match error {
        Error::Agent(ttrpc::Error::RpcStatus(status))
            if status.code() == ttrpc::Code::FAILED_PRECONDITION =>
        {
            let missing = status.message().contains("not found");
            let output = format!("{}\n", status.message());
            Ok(ExecResult { output, status: if missing { STATUS_NOT_FOUND } else { STATUS_NOT_EXECUTABLE } })
        }
        error => Err(error),
    }
}

/// Changes a container's resources.
pub async fn update(agent: &AgentServiceClient, update: &Update) -> Result<()> {
    let request = UpdateContainerRequest {
        container_id: update.container.clone(),
        resources: MessageField::some(resources_to_wire(&update.resources)?),
        ..Default::default()
    };
    agent.update_container(deadline(), &request).await?;
    Ok(())
}

/// A container's resource usage.
pub async fn stats(agent: &AgentServiceClient, id: &str) -> Result<Stats> {
    let request = StatsContainerRequest { container_id: id.to_owned(), ..Default::default() };
    let reply = agent.stats_container(deadline(), &request).await?;
    let cgroup = reply.cgroup_stats.unwrap_or_default();
    let memory_stats = cgroup.memory_stats.get_or_default();
    let memory = memory_stats.usage.clone().unwrap_or_default();
    let counter = |name: &str| memory_stats.stats.get(name).copied().unwrap_or(0);
    let blocks = &cgroup.blkio_stats.get_or_default().io_service_bytes_recursive;
    let total = |op: &str| {
        blocks.iter().filter(|entry| entry.op == op).fold(0u64, |sum, entry| sum.saturating_add(entry.value))
    };
    let network = reply.network_stats.into_iter().map(|nic| NetworkCounters {
        name: nic.name,
        received_bytes: nic.rx_bytes,
        sent_bytes: nic.tx_bytes,
    });
    Ok(Stats {
        cpu_ns: cgroup.cpu_stats.get_or_default().cpu_usage.get_or_default().total_usage,
        memory_bytes: memory.usage,
        inactive_file_bytes: counter("inactive_file"),
        memory_limit_bytes: memory.limit,
        oom_kills: counter(OOM_KILL),
        pids: cgroup.pids_stats.get_or_default().current,
        block_read_bytes: total("Read"),
        block_write_bytes: total("Write"),
        network: network.collect(),
    })
}

/// The processes of a container.
pub async fn processes(agent: &AgentServiceClient, id: &str) -> Result<Vec<ContainerProcess>> {
    let request = ListProcessesRequest { container_id: id.to_owned(), ..Default::default() };
    let reply = agent.list_processes(deadline(), &request).await?;
    serde_json::from_slice(&reply.process_list).map_err(Error::Processes)
}

/// Closes a process's input.
pub async fn close_input(agent: &AgentServiceClient, container: &str, exec: &str) -> Result<()> {
    let request = CloseStdinRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        ..Default::default()
    };
    agent.close_stdin(deadline(), &request).await?;
    Ok(())
}

/// Reads more of a process's output; `None` at its end.
pub async fn read(
    agent: &AgentServiceClient,
    container: &str,
    exec: &str,
    stream: LogStream,
) -> Option<Vec<u8>> {
    let request = ReadStreamRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        len: READ_LENGTH,
        ..Default::default()
    };
    let reply = match stream {
        LogStream::Stdout => agent.read_stdout(no_deadline(), &request).await,
        LogStream::Stderr => agent.read_stderr(no_deadline(), &request).await,
    };
    reply.ok().map(|reply| reply.data).filter(|data| !data.is_empty())
}

/// Writes to a process's input. Waits as long as the process does not read.
pub async fn write(agent: &AgentServiceClient, container: &str, exec: &str, data: &[u8]) -> Result<()> {
    let request = WriteStreamRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        data: data.to_vec(),
        ..Default::default()
    };
    agent.write_stdin(no_deadline(), &request).await?;
    Ok(())
}

async fn keep(agent: &AgentServiceClient, id: &str, stream: LogStream, output: &Output) {
    let mut source = output.source(stream);
    while let Some(data) = read(agent, id, id, stream).await {
        source.push(data).await;
    }
    source.finish();
}

async fn gather(
    agent: &AgentServiceClient,
    container: &str,
    exec: &str,
    stream: LogStream,
    output: &Mutex<Vec<u8>>,
) {
    while let Some(data) = read(agent, container, exec, stream).await {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        let room = EXEC_OUTPUT_MAX - output.len();
        output.extend_from_slice(&data[..data.len().min(room)]);
    }
}

fn user(user: &ContainerUser) -> StringUser {
    StringUser { uid: user.user.clone(), gid: user.group.clone(), ..Default::default() }
}

fn storage(storage: &Storage) -> messages::Storage {
    let (driver, source, driver_options) = match &storage.driver {
        StorageDriver::Block(path) => (STORAGE_MMIO_BLOCK, path.to_string_lossy().into_owned(), Vec::new()),
        StorageDriver::Directory => (STORAGE_LOCAL, String::new(), Vec::new()),
        StorageDriver::Overlay(directories) => {
            let options =
                directories.iter().map(|path| format!("{OVERLAY_CREATE_DIRECTORY}={}", path.display()));
            (STORAGE_OVERLAY, STORAGE_OVERLAY.to_owned(), options.collect())
        }
    };
    messages::Storage {
        driver: driver.to_owned(),
        driver_options,
        source,
        fstype: storage.fstype.clone(),
        options: storage.options.clone(),
        mount_point: storage.mount_point.to_string_lossy().into_owned(),
        ..Default::default()
    }
}
