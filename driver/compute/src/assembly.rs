//! How the service is put together: each part gets what it uses.

use std::sync::Arc;
use std::time::Duration;

use image::Store;
use model::{ActionQueue, ContainerUuid, Database};
use sandbox::Host;
use tokio::sync::mpsc::UnboundedSender;
use volume::Connector;

use crate::belongings::{Debts, GiveBack};
use crate::console::Sessions;
use crate::containers::{Core, CorePolicy};
use crate::creations::Creations;
use crate::engine::{Engine, HostEngine};
use crate::error::Result;
use crate::executor::Executor;
use crate::health::HealthChecks;
use crate::images::Images;
use crate::interfaces::Interfaces;
use crate::lifecycle::Event;
use crate::options::Options;
use crate::pins::Pins;
use crate::resources::Resources;
use crate::rows::ZunRows;
use crate::rpc::{Admission, Server};
use crate::services::Services;
use crate::stray_allocations::StrayAllocations;
use crate::volumes::Volumes;
use crate::zun::Zun;
use crate::zun::commit::Commits;
use crate::zun::files::Files;
use crate::zun::processes::Processes;
use crate::zun::provisioner::Provisioner;
use crate::zun::update::Updates;

/// What the service is made of.
pub struct Parts {
    /// The options.
    pub options: Arc<Options>,
    /// Zun's database.
    pub database: Database,
    /// The sandboxes of this host.
    pub host: Host,
    /// The images of this host.
    pub images: Store,
    /// OpenStack's services.
    pub services: Services,
    /// This host, to which volumes are connected.
    pub connector: Connector,
    /// Who may connect to consoles.
    pub sessions: Arc<Sessions>,
}

/// What it is made into.
pub struct Assembled {
    /// The lives of containers.
    pub core: Arc<Core<Zun>>,
    /// What serves requests.
    pub server: Server,
    /// What this host has.
    pub resources: Resources,
    /// What containers give back.
    pub give_back: GiveBack,
    /// The interfaces of containers.
    pub interfaces: Interfaces,
    /// Images.
    pub images: Images,
    /// Images made of containers.
    pub commits: Commits,
    /// Creations that are taken.
    pub creations: Creations,
    /// What containers that are nowhere any more have left in Placement.
    pub stray_allocations: StrayAllocations,
}

/// Puts the service together.
pub fn assemble(
    parts: Parts,
    actions: ActionQueue,
    happened: UnboundedSender<(ContainerUuid, Event)>,
) -> Result<Assembled> {
    let Parts { options, database, host, images, services, connector, sessions } = parts;
    let Services { neutron, placement, glance, cinder } = services;
    let (hostname, kata) = (options.default.host.clone(), Arc::new(options.kata.clone()));
    let rows = ZunRows::new(database.clone(), hostname.clone(), actions);
    let executor = Executor::new(rows.clone());
    let engine = HostEngine::new(host, neutron.clone(), hostname.clone(), Arc::clone(&kata));
    let pins = Arc::new(Pins::default());
    if options.compute.enable_cpu_pinning {
        load_pins(&pins, &engine)?;
    }
    let images =
        Images::new(Arc::clone(&options), database.clone(), Arc::new(images), glance, executor.clone());
    let volumes = Volumes::new(
        database.clone(),
        cinder,
        connector,
        hostname.clone(),
        options.volume.clone(),
        options.kata.volume_check_limit(),
        options.kata.disk_limit(),
    );
    let resources =
        Resources::new(database.clone(), placement.clone(), Arc::clone(&options), Arc::clone(&pins));
    let creations = Creations::open(options.kata.state_path.join("creations"))?;
    let debts = Debts::open(options.kata.state_path.join("debts"))?;
    let stray_allocations = StrayAllocations::new(
        database,
        placement.clone(),
        engine.clone(),
        creations.clone(),
        debts.clone(),
        hostname,
    );
    let give_back = GiveBack::new(engine.clone(), neutron.clone(), placement, volumes.clone(), pins, debts);
    let interfaces = Interfaces { engine: engine.clone(), neutron: neutron.clone(), kata: Arc::clone(&kata) };
    let provision = Provisioner {
        options: Arc::clone(&options),
        rows: rows.clone(),
        engine: engine.clone(),
        images: images.clone(),
        neutron,
        interfaces: interfaces.clone(),
        volumes,
        resources: resources.clone(),
        give_back: give_back.clone(),
        health: HealthChecks::new(engine.clone(), happened.clone()),
    };
    let policy = CorePolicy {
        resumes: options.compute.resume_container_state,
        stop_timeout: Duration::from_secs(options.docker.default_timeout),
    };
    let core = Arc::new(Core::new(executor.clone(), engine.clone(), provision, happened, policy));
    let files = Files::new(Arc::clone(&core), Arc::clone(&kata));
    let commits = Commits::new(engine.clone(), executor, images.clone(), files.clone());
    let server = Server {
        core: Arc::clone(&core),
        interfaces: interfaces.clone(),
        processes: Processes::new(options, rows, engine, sessions),
        files,
        updates: Updates::new(Arc::clone(&core), resources.clone(), kata),
        commits: commits.clone(),
        images: images.clone(),
        admission: Admission::default(),
        creations: creations.clone(),
    };
    Ok(Assembled {
        core,
        server,
        resources,
        give_back,
        interfaces,
        images,
        commits,
        creations,
        stray_allocations,
    })
}

/// Finds in the records which CPUs are whose.
fn load_pins(pins: &Pins, engine: &HostEngine) -> Result<()> {
    for id in engine.survey()?.into_keys() {
        let Ok(record) = engine.record(id) else { continue };
        let memory = record.members.iter().map(|member| member.container.memory_mib).sum();
        if let Some(pinning) = record.pinning {
            pins.insert(id, pinning, memory);
        }
    }
    Ok(())
}
