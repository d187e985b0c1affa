//! Builds a sandbox's machine from its plan.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use shim_control::{DiskSlot, Origin, RunDir, SandboxPlan};
use vmm::{
    Assembly, BootConfig, DiskAccess, MacAddress, Machine, MachineConfig, Snapshot, SnapshotFiles,
    VsockConfig,
};

use crate::error::{Error, Result};

/// Context identifier of every guest: each machine has its own host socket, so that they need not differ.
const GUEST_CID: u32 = 3;

/// A machine that is built, and what is opened for it.
pub struct Prepared {
    /// The machine.
    pub machine: Assembly,
    /// Whether it is restored from a template.
    pub from_template: bool,
    /// Becomes readable when the guest's agent listens.
    pub ready_signal: UnixStream,
    /// The template to save, if one is to be made.
    pub template: Option<TemplateFiles>,
}

/// Opens the files that the plan names and builds the machine. Nothing else of the host is opened afterwards.
pub fn prepare(folder: &RunDir, plan: &SandboxPlan) -> Result<Prepared> {
    let listener =
        UnixListener::bind(folder.vsock_socket()).map_err(Error::io("listen for vsock clients"))?;
    let (ready_signal, signaller) = UnixStream::pair().map_err(Error::io("make a pair of sockets"))?;
    let vsock = Vsock { listener, ready_signal: signaller };
    let template = match plan.origin {
        Origin::BootAndSave => Some(TemplateFiles::create(folder)?),
        Origin::Boot | Origin::Template(_) => None,
    };
    if let Origin::Template(path) = &plan.origin {
        match restore(plan, &vsock, path) {
            Ok(machine) => return Ok(Prepared { machine, from_template: true, ready_signal, template }),
            Err(e) => tracing::warn!("the template {} is not used, the guest boots: {e}", path.display()),
        }
    }
    let boot =
        BootConfig { kernel: plan.kernel.clone(), initrd: plan.image.clone(), command_line: String::new() };
    let machine = Assembly::boot(config(plan, &vsock)?, &boot)?;
    Ok(Prepared { machine, from_template: false, ready_signal, template })
}

/// The host side of the guest's socket device.
struct Vsock {
    listener: UnixListener,
    ready_signal: UnixStream,
}

impl Vsock {
    /// A copy for one machine: if the first cannot be restored, a second is booted.
    fn config(&self) -> Result<VsockConfig> {
        let listener = self.listener.try_clone().map_err(Error::io("copy the vsock listener"))?;
        let ready_signal = self.ready_signal.try_clone().map_err(Error::io("copy a socket"))?;
        Ok(VsockConfig { cid: GUEST_CID, listener, ready_signal })
    }
}

fn restore(plan: &SandboxPlan, vsock: &Vsock, template: &Path) -> Result<Assembly> {
    let snapshot = Snapshot::open(template)?;
    Ok(Assembly::restore(config(plan, vsock)?, &snapshot)?)
}

fn config(plan: &SandboxPlan, vsock: &Vsock) -> Result<MachineConfig> {
    Ok(MachineConfig {
        vcpus: plan.vcpus,
        vcpus_max: plan.vcpus_max,
        memory_mib: plan.memory_mib,
        memory_max_mib: plan.memory_max_mib,
        disk_slots: plan.disk_slots.iter().map(access).collect(),
        nic_slots: (0..plan.nic_slots).map(slot_address).collect(),
        queue_pairs: plan.queue_pairs(),
        vsock: Some(vsock.config()?),
    })
}

fn access(slot: &DiskSlot) -> DiskAccess {
    match slot {
        DiskSlot::ReadOnly => DiskAccess::ReadOnly,
        DiskSlot::ReadWrite => DiskAccess::ReadWrite,
    }
}

/// The permanent address of an interface slot, by which the agent finds it: locally administered, and never on a wire.
fn slot_address(slot: u8) -> MacAddress {
    MacAddress([0x02, b'z', b'u', b'n', 0, slot])
}

/// The files of a template in the making, which are renamed once they are complete. Paths are relative to the shim's
/// root after it has changed that.
pub struct TemplateFiles {
    files: SnapshotFiles,
    making: PathBuf,
    made: PathBuf,
}

impl TemplateFiles {
    fn create(folder: &RunDir) -> Result<Self> {
        let made = folder.template();
        let making = made.with_extension("new");
        for path in [&made, &making] {
            match fs::remove_dir_all(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove an old template")(e));
                }
                _ => {}
            }
        }
        fs::create_dir(&making).map_err(Error::io("make a folder for a template"))?;
        let name = |path: &Path| path.file_name().map_or_else(PathBuf::new, PathBuf::from);
        Ok(Self { files: SnapshotFiles::create(&making)?, making: name(&making), made: name(&made) })
    }

    /// Saves the machine's state. If that fails, the files are removed.
    pub fn save(self, machine: &Machine, folder: &RunDir) -> Result<()> {
        let root = folder.path();
        let saved = machine.snapshot(&self.files).map_err(Error::from).and_then(|()| {
            fs::rename(root.join(&self.making), root.join(&self.made))
                .map_err(Error::io("give a template its name"))
        });
        if saved.is_err() {
            // Files that cannot be removed are removed with the sandbox's folder.
            let _ = fs::remove_dir_all(root.join(&self.making));
        }
        saved
    }
}
