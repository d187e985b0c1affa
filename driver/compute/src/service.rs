//! The service's life: wait for what it needs, register, serve and recover side by side, end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cloud::Keystone;
use model::{ActionQueue, Database};
use nix::fcntl::{Flock, FlockArg};
use oslo::{Endpoint, Served, Target, Version};
use sandbox::{Host, prove_kvm};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::Instrument;

use crate::assembly::{Assembled, Parts, assemble};
use crate::console::{self, Sessions};
use crate::containers::{
    Core, Recovery, background_span, handle_all, outlived_names, recover, refuse_creation, until_answered,
};
use crate::creations::Creations;
use crate::heartbeat::beat;
use crate::host_names::HostNames;
use crate::options::{ConfigError, Options};
use crate::periodic::Periodic;
use crate::rows::SERVICE_DOWN_TIME;
use crate::services::Services;
use crate::zun::Zun;
use crate::zun::commit::Commits;
use crate::{manager, metrics, orphans};

const RETRY: Duration = Duration::from_secs(2);
/// How long operations may go on when this service ends. One that has begun is taken up at the next start; one that only waits is
/// lost.
const REST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the database may take to take what is left to be recorded when this service ends.
const RECORD_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("this host cannot run sandboxes: {0}")]
    Kvm(sandbox::Error),
    #[error(transparent)]
    Sandboxes(sandbox::Error),
    #[error(transparent)]
    Images(#[from] image::Error),
    #[error(transparent)]
    Volumes(#[from] volume::Error),
    #[error("[kata] metrics_listen {0}: {1}")]
    Metrics(std::net::SocketAddr, std::io::Error),
    #[error("signals cannot be waited for: {0}")]
    Signals(#[from] std::io::Error),
    #[error(transparent)]
    Other(#[from] crate::error::Error),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> ExitCode {
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "zun-kata-compute cannot start");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), StartError> {
    for line in &options.ignored_options {
        tracing::warn!("{line}");
    }
    let options = Arc::new(options);
    let stop = stop_on_signal()?;
    let _only = only_one(&options.kata.state_path)?;
    let (host, sessions, images) = open_host(&options).await?;

    // The heartbeat waits for nobody: it has a connection of its own.
    let beats = options.database_url()?.pool(1);
    let mut stopped = stop.clone();
    let keystone = tokio::select! {
        keystone = wait_for_cloud(&beats, &options) => keystone,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    let database = options.database_url()?.pool(options.database.max_pool_size);
    let services = Services::new(&keystone, &options);
    let actions = ActionQueue::start(database.clone());
    let (happened, happenings) = mpsc::unbounded_channel();
    let connector = options.connector()?;
    let parts =
        Parts { options: Arc::clone(&options), database, host, images, services, connector, sessions };
    let Assembled {
        core,
        server,
        resources,
        give_back,
        interfaces,
        images,
        commits,
        creations,
        stray_allocations,
    } = assemble(parts, actions.clone(), happened)?;

    let names = HostNames::open(&options.kata.state_path, &options.default.host)?;
    let recovery = until_done("the containers of this host cannot be listed", async || {
        resources.adopt_names(&names).await?;
        Recovery::begin(&*core, &names).await
    });
    let recovery = tokio::select! {
        recovery = recovery => recovery,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    orphans::tell(&recovery.orphans);
    let leftovers = orphans::leftover_taps(&core, &recovery.sandboxes).await;
    tokio::spawn(handle_all(Arc::clone(&core), happenings));
    abandon_commits(&commits, &recovery);
    refuse_what_was_lost(&core, &creations)?;
    let (rpc, asked_to_stop) = (rpc(&options)?, stop.clone());
    let serving = tokio::spawn(async move { rpc.run(Arc::new(server), asked_to_stop).await });
    manager::serving();
    tokio::spawn(recover(Arc::clone(&core), recovery));
    let state_path = options.kata.state_path.clone();
    tokio::spawn(look_again(Arc::clone(&core), commits, names, state_path));
    orphans::remove_taps(&core, leftovers);
    let tasks = Periodic {
        options: Arc::clone(&options),
        beats,
        core,
        resources,
        give_back,
        interfaces,
        images,
        stray_allocations: Arc::new(stray_allocations),
    };
    let turns = tasks.core.turns.clone();
    let mut tasks = tasks.start(&stop);
    if let Err(e) = serving.await {
        tracing::error!(error = %e, "RPC is served no longer");
    }
    manager::stopping();
    tasks.abort_all();
    let left = turns.rest(REST_TIMEOUT).await;
    if left > 0 {
        tracing::warn!(
            containers = left,
            "operations have not ended in time: those that have begun are taken up at the next start, those that wait are lost"
        );
    }
    actions.flush(RECORD_TIMEOUT).await;
    tracing::info!("stopped; sandboxes go on");
    Ok(())
}

/// Proves that this host runs sandboxes, and opens what it has of its own: its consoles and its images.
async fn open_host(options: &Options) -> Result<(Host, Arc<Sessions>, image::Store), StartError> {
    let host = Host::new(options.host()).map_err(StartError::Sandboxes)?;
    host.gather_shims();
    let took = prove_kvm(&host).await.map_err(StartError::Kvm)?;
    tracing::info!(took_ms = took.as_millis(), "KVM works: a guest was ready");
    if let Some(address) = options.kata.metrics_listen {
        let listening = metrics::serve(address, host.clone()).await;
        listening.map_err(|e| StartError::Metrics(address, e))?;
    }
    let sessions = Arc::new(Sessions::new(Duration::from_secs(options.kata.console_token_ttl)));
    console::serve(&options.docker, host.clone(), Arc::clone(&sessions)).await?;
    let images = options.image_store()?;
    images.remove_leftovers()?;
    Ok((host, sessions, images))
}

/// Two services would take each other's work for interrupted: there is one for each state path.
fn only_one(state_path: &Path) -> Result<Flock<File>, StartError> {
    let path = state_path.join("lock");
    let opened = fs::create_dir_all(state_path).and_then(|()| File::create(&path));
    let file =
        opened.map_err(|e| ConfigError::of("[kata] state_path", format!("{}: {e}", path.display())))?;
    let taken = |_| ConfigError::of("[kata] state_path", format!("another service holds {}", path.display()));
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| taken(e))?)
}

/// Commits that were under way when this service ended are taken back, each beside everything else.
fn abandon_commits(commits: &Commits, recovery: &Recovery) {
    for uuid in recovery.containers() {
        for begun in commits.interrupted(uuid) {
            let commits = commits.clone();
            let abandon = async move {
                if let Err(e) = commits.abandon(uuid, &begun).await {
                    tracing::error!(error = %e, "an interrupted commit is not taken back");
                }
            };
            tokio::spawn(abandon.instrument(background_span(uuid)));
        }
    }
}

/// Takes over what was left to hosts that seemed to live, once it is known whether they do. Names of this host that others have by
/// then, or of which nothing is left, are forgotten.
async fn look_again(core: Arc<Core<Zun>>, commits: Commits, names: HostNames, state_path: PathBuf) {
    sleep(SERVICE_DOWN_TIME + RETRY).await;
    let outlived = async {
        let found = until_answered(|| Recovery::of_other_names(&*core, &names)).await?;
        abandon_commits(&commits, &found);
        recover(Arc::clone(&core), found).await;
        until_answered(|| outlived_names(&*core, &names)).await
    };
    if let Err(e) = outlived.await.and_then(|outlived| names.forget(&state_path, &outlived)) {
        tracing::error!(error = %e, "other names of this host are not settled");
    }
}

/// Creations that an earlier life of this service has taken and not begun are refused, each beside everything else.
fn refuse_what_was_lost(core: &Arc<Core<Zun>>, creations: &Creations) -> crate::error::Result<()> {
    for taken in creations.left()? {
        let (core, creations, span) = (Arc::clone(core), creations.clone(), background_span(taken.uuid));
        let work = async move {
            let reason = crate::error::Error::Interrupted.to_string();
            Box::pin(refuse_creation(&core, &creations, &taken, &reason)).await;
        };
        tokio::spawn(work.instrument(span));
    }
    Ok(())
}

fn rpc(options: &Options) -> Result<oslo::Server, ConfigError> {
    let target = Target {
        exchange: options.default.control_exchange.clone(),
        topic: options.compute.topic.clone(),
        server: options.default.host.clone(),
    };
    let endpoints = vec![Endpoint { namespace: None, version: Version { major: 1, minor: 1 } }];
    let served = vec![Served { target, endpoints }];
    Ok(oslo::Server::new(options.transport_url()?, options.oslo_messaging_rabbit.clone(), served))
}

fn stop_on_signal() -> std::io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

async fn wait_for_cloud(beats: &Database, options: &Options) -> Keystone {
    wait_for_database(beats, options).await;
    wait_for_keystone(options).await
}

async fn wait_for_database(database: &Database, options: &Options) {
    while let Err(e) = beat(database, options).await {
        tracing::warn!(error = %e, "waiting for the database");
        sleep(RETRY).await;
    }
}

async fn wait_for_keystone(options: &Options) -> Keystone {
    loop {
        match Keystone::connect(&options.keystone_auth).await {
            Ok(keystone) => return keystone,
            Err(e) => {
                tracing::warn!(auth_url = %options.keystone_auth.auth_url, error = %e, "waiting for Keystone")
            }
        }
        sleep(RETRY).await;
    }
}

/// Tries until it works.
async fn until_done<T>(failure: &str, work: impl AsyncFn() -> crate::error::Result<T>) -> T {
    loop {
        match work().await {
            Ok(done) => return done,
            Err(e) => tracing::error!(error = %e, "{failure}"),
        }
        sleep(RETRY).await;
    }
}
