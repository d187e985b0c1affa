//! The control socket: one request a connection.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use shim_control::{
    Answer, ContainerExit, Interact, Phase, Request, SandboxState, receive_request, write_line,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::supervisor::Supervisor;
use crate::terminal::Attached;

/// Time for open requests to be answered once the guest has ended.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The running server.
pub struct Server {
    task: JoinHandle<()>,
    ending: tokio::sync::oneshot::Sender<()>,
}

/// Starts serving requests.
pub fn start(listener: StdUnixListener, supervisor: Arc<Supervisor>) -> Result<Server> {
    let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    let listener = listener.map_err(Error::io("take requests"))?;
    let (ending, end) = tokio::sync::oneshot::channel();
    Ok(Server { task: tokio::spawn(serve(listener, supervisor, end)), ending })
}

impl Server {
    /// Answers the open requests and ends.
    pub async fn finish(self) {
        // Fails only if the task has ended.
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
                Err(e) => tracing::warn!(error = %e, "a control connection failed"),
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
    let (request, files) = match receive_request(&mut stream).await {
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(e) => {
            tracing::warn!(error = %e, "a control request cannot be read");
            return;
        }
    };
    let (answer, session) = match reply(request, files, &supervisor).await {
        Ok(Reply::Answer(answer)) => (answer, None),
        Ok(Reply::Session(session)) => (Answer::Done, Some(session)),
        Err(e) => (Answer::Failed(e.to_string()), None),
    };
    if let Err(e) = write_line(&mut stream, &answer).await {
        tracing::debug!(error = %e, "a controller left before its answer");
    }
    if let Some(session) = session
        && let Err(e) = serve_session(stream, session, &supervisor).await
    {
        tracing::debug!(error = %e, "a connection to a process ended");
    }
}

/// The reply to a request.
enum Reply {
    Answer(Answer),
    Session(Session),
}

/// A connection's use after its request was answered.
enum Session {
    Attached(Attached),
    Interactive(Box<Interact>),
    /// A shell's message for a program that cannot be run.
    Unrunnable(String),
}

async fn serve_session(mut stream: UnixStream, session: Session, supervisor: &Supervisor) -> Result<()> {
    match session {
        Session::Attached(attached) => {
            supervisor.serve_attached(stream, attached).await;
            Ok(())
        }
        // Served even if its user has left: the process must be waited for.
        Session::Interactive(interact) => {
            or_end(supervisor, supervisor.serve_interactive(stream, &interact)).await
        }
        Session::Unrunnable(text) => {
            let text = text.replace('\n', "\r\n");
            stream.write_all(text.as_bytes()).await.map_err(Error::io("tell why a program cannot be run"))
        }
    }
}

async fn reply(request: Request, files: Vec<OwnedFd>, supervisor: &Arc<Supervisor>) -> Result<Reply> {
    let mut files = files.into_iter();
    let mut file = || files.next().ok_or(Error::NoFile);
    Ok(Reply::Answer(match request {
        Request::State => Answer::State(supervisor.watch().borrow().clone()),
        Request::WaitReady => {
            Answer::State(wait_for(supervisor, |state| state.phase != Phase::Booting).await?)
        }
        Request::InsertDisk(disk) => {
            let image = file()?;
            Answer::Disk(supervisor.insert_disk(disk, image).await?)
        }
        Request::FindDisk(name) => Answer::Disk(supervisor.find_disk(&name).await?),
        Request::EjectDisk(name) => {
            supervisor.eject_disk(name).await?;
            Answer::Done
        }
        Request::InsertNic(nic) => {
            supervisor.insert_nic(nic, files.collect()).await?;
            Answer::Done
        }
        Request::EjectNic(mac) => {
            or_end(supervisor, supervisor.eject_nic(mac)).await?;
            Answer::Done
        }
        Request::SetNetwork(network) => {
            or_end(supervisor, supervisor.set_network(&network)).await?;
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
        Request::Attach(id) => return Ok(Reply::Session(Session::Attached(supervisor.attach(&id)?))),
        Request::Interact(interact) => {
            let unrunnable = or_end(supervisor, supervisor.spawn(&interact)).await?;
            return Ok(Reply::Session(match unrunnable {
                Some(result) => Session::Unrunnable(result.output),
                None => Session::Interactive(interact),
            }));
        }
        Request::Pack(pack) => {
            let archive = file()?;
            let packed = or_end(supervisor, supervisor.pack(&pack, archive)).await?;
            packed.map_or_else(Answer::BadArchive, |stat| stat.map_or(Answer::Done, Answer::Packed))
        }
        Request::Unpack(unpack) => {
            let archive = file()?;
            let unpacked = or_end(supervisor, supervisor.unpack(&unpack, archive)).await?;
            unpacked.map_or_else(Answer::BadArchive, |()| Answer::Done)
        }
        Request::Resize(resize) => {
            or_end(supervisor, supervisor.resize_terminal(&resize)).await?;
            Answer::Done
        }
        Request::Exec(exec) => {
            let result = or_end(supervisor, supervisor.exec(&exec)).await?;
            result.map_or(Answer::TimedOut, Answer::Exec)
        }
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
        Request::Traffic => Answer::Traffic(supervisor.traffic().await),
        Request::Shutdown => {
            supervisor.shut_down().await;
            wait_for(supervisor, |state| !state.is_live()).await?;
            Answer::Done
        }
    }))
}

/// Does `work`; fails if the guest ends first.
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
