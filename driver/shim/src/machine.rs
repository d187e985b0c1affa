//! From a sandbox's plan to its machine.

use std::fs::File;
use std::os::unix::net::UnixListener;

use shim_control::{SandboxDir, SandboxPlan};
use vmm::{DiskAccess, DiskConfig, Machine, MachineConfig, NicConfig, VsockConfig};

use crate::error::{Error, Result};
use crate::tap;

/// Each machine has its own host socket, so that all guests can have the same context identifier.
const GUEST_CID: u32 = 3;

/// Opens what the plan names and starts the machine.
pub fn start(folder: &SandboxDir, plan: &SandboxPlan) -> Result<Machine> {
    let listener =
        UnixListener::bind(folder.vsock_socket()).map_err(Error::io("listen for vsock clients"))?;
    let disks = plan.disks.iter().map(open_disk).collect::<Result<_>>()?;
    let nics = plan.nics.iter().map(open_nic).collect::<Result<_>>()?;
    let config = MachineConfig {
        vcpus: plan.vcpus,
        memory_mib: plan.memory_mib,
        kernel: plan.kernel.clone(),
        initrd: plan.image.clone(),
        command_line: String::new(),
        disks,
        nics,
        vsock: Some(VsockConfig { cid: GUEST_CID, listener }),
    };
    Ok(Machine::start(config)?)
}

fn open_disk(disk: &shim_control::Disk) -> Result<DiskConfig> {
    let file = File::options()
        .read(true)
        .write(!disk.read_only)
        .open(&disk.path)
        .map_err(Error::io(format!("open disk {}", disk.path.display())))?;
    let access = if disk.read_only { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite };
    Ok(DiskConfig { file, access, serial: disk.serial.clone() })
}

fn open_nic(nic: &shim_control::Nic) -> Result<NicConfig> {
    Ok(NicConfig { tap: tap::open(&nic.tap)?, mac: nic.mac.parse()?, mtu: nic.mtu })
}
