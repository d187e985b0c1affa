//! The life of a sandbox, from its plan to the end of its guest.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use shim_control::{Origin, Phase, RunDir, SandboxDir, SandboxPlan, SandboxState, Stage};
use vmm::{Confinement, Machine};

use crate::error::{Error, Result};
use crate::supervisor::{Preparations, Supervisor, now};
use crate::{jail, machine, server};

/// Runs the sandbox of `folder` until its guest has ended.
pub fn run(folder: &SandboxDir) -> Result<()> {
    let mut stages = BTreeMap::from([(Stage::ShimStarted, now())]);
    let plan = folder.read_plan().map_err(Error::io("read the sandbox's plan"))?;
    let prepared = prepare(folder, &plan, &mut stages);
    let (started, failed) = match prepared {
        Ok(started) => (Some(started), None),
        Err(e) => (None, Some(e)),
    };
    let state = SandboxState {
        phase: failed.as_ref().map_or(Phase::Booting, |e| Phase::Failed { reason: e.to_string() }),
        containers: BTreeMap::new(),
        from_template: started.as_ref().is_some_and(|started| started.from_template),
        stages,
    };
    let Some(started) = started else {
        let written = folder.run().write_state(&state).map_err(Error::io("write the sandbox's state"));
        // Why it failed counts for more.
        return failed.map_or(written, Err);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start tokio"))?;
    runtime.block_on(async {
        let Started { folder, listener, machine, preparations, .. } = started;
        let supervisor = Supervisor::new(folder, plan, machine, preparations, state);
        supervise(Arc::new(supervisor), listener).await
    })
}

/// A running machine in a confined process.
struct Started {
    folder: RunDir,
    listener: UnixListener,
    machine: Machine,
    from_template: bool,
    preparations: Preparations,
}

/// Opens everything, gives up all rights, and starts the machine.
fn prepare(folder: &SandboxDir, plan: &SandboxPlan, stages: &mut BTreeMap<Stage, u64>) -> Result<Started> {
    if let Some(cgroup) = &plan.cgroup {
        jail::join_cgroup(cgroup)?;
    }
    let path = folder.control_socket();
    let listener = UnixListener::bind(&path).map_err(Error::io(format!("listen at {}", path.display())))?;
    let prepared = machine::prepare(&folder.run(), plan)?;
    stages.insert(Stage::VmCreated, now());
    let folder = jail::enter(&folder.run(), plan.user, file_size(plan))?;
    stages.insert(Stage::Confined, now());
    let machine = prepared.machine.run(Confinement::Seccomp)?;
    stages.insert(Stage::GuestEntered, now());
    jail::confine_this_thread()?;
    let preparations = Preparations { ready_signal: prepared.ready_signal, template: prepared.template };
    Ok(Started { folder, listener, machine, from_template: prepared.from_template, preparations })
}

/// Bytes of the largest file that it writes: a log, its state, or a template. For its disks the service allows more.
fn file_size(plan: &SandboxPlan) -> u64 {
    const OWN: u64 = 8 << 20;
    let template = match plan.origin {
        Origin::BootAndSave => plan.memory_mib << 20,
        Origin::Boot | Origin::Template(_) => 0,
    };
    plan.log.file_bytes.max(template).saturating_add(OWN)
}

/// Serves requests while the guest boots and runs.
async fn supervise(supervisor: Arc<Supervisor>, listener: UnixListener) -> Result<()> {
    let server = server::start(listener, Arc::clone(&supervisor))?;
    let boot = tokio::spawn(Arc::clone(&supervisor).boot());
    let exit = supervisor.wait().await;
    boot.abort();
    supervisor.record_end(exit);
    server.finish().await;
    Ok(())
}
