//! The control socket: one request a connection.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use shim_control::{Answer, ContainerExit, Phase, Request, SandboxState, receive_request, write_line};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::supervisor::Supervisor;

/// How long answers may take to be written once the guest is gone.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The running server.
pub struct Server {
    task: JoinHandle<()>,
    ending: tokio::sync::oneshot::Sender<()>,
}

/// Starts taking requests.
pub fn start(listener: StdUnixListener, supervisor: Arc<Supervisor>) -> Result<Server> {
    let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    let listener = listener.map_err(Error::io("take requests"))?;
    let (ending, end) = tokio::sync::oneshot::channel();
    Ok(Server { task: tokio::spawn(serve(listener, supervisor, end)), ending })
}

impl Server {
    /// Answers what is still to be answered and ends.
    pub async fn finish(self) {
        // A task that is gone needs no word.
        let _ = self.ending.send(());
        if tokio::time::timeout(FINISH_TIMEOUT, self.task).await.is_err() {
            tracing::warn!("a request was still open when the sandbox ended");
        }
    }
}

async fn serve(listener: UnixListener, supervisor: Arc<Supervisor>, end: tokio::sync::oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(handle(stream, Arc::clone(&supervisor)));
                }
                Err(e) => tracing::warn!("a control connection failed: {e}"),
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        _ = end => {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn handle(mut stream: UnixStream, supervisor: Arc<Supervisor>) {
    let (request, file) = match receive_request(&mut stream).await {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(e) => {
            tracing::warn!("a control request cannot be read: {e}");
            return;
        }
    };
    let answer = answer(request, file, &supervisor).await.unwrap_or_else(|e| Answer::Failed(e.to_string()));
    if let Err(e) = write_line(&mut stream, &answer).await {
        tracing::debug!("a controller left before its answer: {e}");
    }
}

async fn answer(request: Request, file: Option<OwnedFd>, supervisor: &Arc<Supervisor>) -> Result<Answer> {
    Ok(match request {
        Request::State => Answer::State(supervisor.watch().borrow().clone()),
        Request::WaitReady => {
            Answer::State(wait_for(supervisor, |state| state.phase != Phase::Booting).await?)
        }
        Request::InsertDisk(disk) => {
            let image = file.ok_or(Error::NoFile)?;
            Answer::Disk(supervisor.insert_disk(disk, image).await?)
        }
        Request::EjectDisk(name) => {
            supervisor.eject_disk(&name).await?;
            Answer::Done
        }
        Request::InsertNic(nic) => {
            let tap = file.ok_or(Error::NoFile)?;
            or_end(supervisor, supervisor.insert_nic(*nic, tap)).await?;
            Answer::Done
        }
        Request::EjectNic(mac) => {
            or_end(supervisor, supervisor.eject_nic(&mac)).await?;
            Answer::Done
        }
        Request::CreateContainer(container) => {
            or_end(supervisor, supervisor.create_container(&container)).await?;
            Answer::Done
        }
        Request::StartContainer(id) => {
            or_end(supervisor, supervisor.start_container(id)).await?;
            Answer::Done
        }
        Request::RemoveContainer(id) => {
            or_end(supervisor, supervisor.remove_container(&id)).await?;
            Answer::Done
        }
        Request::WaitContainer(id) => Answer::Exit(wait_container(supervisor, &id).await?),
        Request::Signal(signal) => {
            or_end(supervisor, supervisor.signal(&signal)).await?;
            Answer::Done
        }
        Request::Exec(exec) => Answer::Exec(or_end(supervisor, supervisor.exec(&exec)).await?),
        Request::Pause => {
            supervisor.pause().await?;
            Answer::Done
        }
        Request::Resume => {
            supervisor.resume()?;
            Answer::Done
        }
        Request::Update(update) => {
            or_end(supervisor, supervisor.update_container(&update)).await?;
            Answer::Done
        }
        Request::Stats(id) => Answer::Stats(or_end(supervisor, supervisor.stats(&id)).await?),
        Request::Processes(id) => Answer::Processes(or_end(supervisor, supervisor.processes(&id)).await?),
        Request::Traffic => Answer::Traffic(supervisor.traffic().await?),
        Request::Shutdown => {
            supervisor.shut_down().await;
            wait_for(supervisor, |state| !state.is_live()).await?;
            Answer::Done
        }
    })
}

/// Does `work`, unless the guest ends first.
async fn or_end<T>(supervisor: &Supervisor, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        result = work => result,
        state = wait_for(supervisor, |state| !state.is_live()) => Err(ended(&state?)),
    }
}

async fn wait_container(supervisor: &Supervisor, id: &str) -> Result<ContainerExit> {
    let over = |state: &SandboxState| match state.containers.get(id) {
        Some(Some(_)) | None => true,
        Some(None) => !state.is_live(),
    };
    let state = wait_for(supervisor, over).await?;
    match state.containers.get(id) {
        Some(Some(exit)) => Ok(exit.clone()),
        Some(None) => Err(ended(&state)),
        None => Err(Error::NoContainer(id.to_owned())),
    }
}

async fn wait_for(
    supervisor: &Supervisor,
    condition: impl Fn(&SandboxState) -> bool,
) -> Result<SandboxState> {
    let mut watch = supervisor.watch();
    let state =
        watch.wait_for(condition).await.map_err(|_| Error::GuestEnded("the sandbox has ended".into()))?;
    Ok(state.clone())
}

fn ended(state: &SandboxState) -> Error {
    Error::GuestEnded(match &state.phase {
        Phase::Failed { reason } => reason.clone(),
        _ => "the sandbox has ended".into(),
    })
}
