//! The service's life: wait for what it needs, recover, register, serve, end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cloud::Keystone;
use model::{Database, heartbeat};
use oslo::{Server, Target};
use sandbox::{Host, prove_kvm};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::console::{self, Sessions};
use crate::manager::Manager;
use crate::options::Options;
use crate::resources::{self, BINARY};
use crate::services::Services;
use crate::{metrics, recovery};

const RETRY: Duration = Duration::from_secs(2);
/// Between two looks for images that nobody uses.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(600);
/// Some of Zun's periods are maxima; ours are no longer than this.
const REPORT_MAX: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> ExitCode {
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("zun-kata-compute cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), String> {
    for line in &options.needless {
        tracing::warn!("{line}");
    }
    let options = Arc::new(options);
    let stop = stop_on_signal()?;
    let host = Host::new(options.host()).map_err(|e| e.to_string())?;
    let took = prove_kvm(&host).await.map_err(|e| format!("this host cannot run sandboxes: {e}"))?;
    tracing::info!("KVM works: a guest was ready after {} ms", took.as_millis());
    if let Some(address) = options.kata.metrics_listen {
        let listening = metrics::serve(address, host.clone()).await;
        listening.map_err(|e| format!("[kata] metrics_listen {address}: {e}"))?;
    }
    let sessions = Arc::new(Sessions::new(Duration::from_secs(options.kata.console_token_ttl)));
    console::serve(&options.docker, host.clone(), Arc::clone(&sessions)).await?;
    let images = options.image_store()?;
    images.remove_leftovers().map_err(|e| e.to_string())?;

    let database = options.database_url()?.pool(options.database.max_pool_size);
    let ready = async {
        wait_for_database(&database, &options).await;
        wait_for_keystone(&options).await
    };
    let mut stopped = stop.clone();
    let keystone = tokio::select! {
        keystone = ready => keystone,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    let services = Services::new(&keystone, &options);

    let connector = options.connector().map_err(|e| e.to_string())?;
    let manager = Manager::new(Arc::clone(&options), database, host, images, services, connector, sessions);
    let manager = Arc::new(manager);
    manager.load_pins().map_err(|e| e.to_string())?;
    recovery::recover(&manager).await;
    let periodic = tokio::spawn(periodic_tasks(Arc::clone(&manager), stop.clone()));
    let target = Target {
        exchange: options.default.control_exchange.clone(),
        topic: options.compute.topic.clone(),
        server: options.default.host.clone(),
    };
    let server = Server::new(options.transport_url()?, options.oslo_messaging_rabbit.clone(), target);
    server.run(manager, stop).await;
    periodic.abort();
    tracing::info!("stopped; sandboxes go on");
    Ok(())
}

fn stop_on_signal() -> Result<watch::Receiver<bool>, String> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
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

async fn wait_for_database(database: &Database, options: &Options) {
    while let Err(e) = beat(database, options).await {
        tracing::warn!("waiting for the database: {e}");
        sleep(RETRY).await;
    }
}

async fn wait_for_keystone(options: &Options) -> Keystone {
    loop {
        match Keystone::connect(&options.keystone_auth).await {
            Ok(keystone) => return keystone,
            Err(e) => tracing::warn!("waiting for Keystone at {}: {e}", options.keystone_auth.auth_url),
        }
        sleep(RETRY).await;
    }
}

async fn beat(database: &Database, options: &Options) -> model::Result<()> {
    let default = &options.default;
    heartbeat(database, &default.host, BINARY, &default.default_availability_zone).await
}

async fn periodic_tasks(manager: Arc<Manager>, mut stop: watch::Receiver<bool>) {
    let seconds = manager.options().default.periodic_interval_max.max(1);
    let mut ticks = interval(Duration::from_secs(seconds).min(REPORT_MAX));
    let seconds = manager.options().default.sync_container_state_interval.max(1);
    let mut syncs = interval(Duration::from_secs(seconds));
    let mut collections = interval(COLLECTION_INTERVAL);
    for ticks in [&mut ticks, &mut syncs, &mut collections] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        let due = tokio::select! {
            _ = ticks.tick() => Due::Report,
            _ = syncs.tick() => Due::Synchronisation,
            _ = collections.tick() => Due::Collection,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match due {
            Due::Report => {
                report(&manager).await;
                give_memory_back();
            }
            Due::Synchronisation => {
                if let Err(e) = manager.synchronise().await {
                    tracing::error!("the containers' states are not compared: {e}");
                }
                if let Err(e) = manager.synchronise_ports().await {
                    tracing::error!("the containers' ports are not compared: {e}");
                }
            }
            Due::Collection => {
                if let Err(e) = manager.collect_images() {
                    tracing::error!("images that nobody uses are kept: {e}");
                }
            }
        }
    }
}

/// What is done from time to time.
enum Due {
    Report,
    Synchronisation,
    Collection,
}

async fn report(manager: &Manager) {
    if let Err(e) = beat(manager.database(), manager.options()).await {
        tracing::error!("the heartbeat is lost: {e}");
    }
    let (database, placement) = (manager.database(), manager.placement());
    if let Err(e) = resources::report(database, placement, manager.options(), manager.pins()).await {
        tracing::error!("the host's resources are not reported: {e}");
    }
    manager.delete_auto_removed().await;
}

/// What a burst of requests took, and is free again, goes back to the host.
fn give_memory_back() {
    // SAFETY: it only looks at the allocator's own lists, under the allocator's own locks.
    unsafe { nix::libc::malloc_trim(0) };
}
