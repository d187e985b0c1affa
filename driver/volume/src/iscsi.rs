//! iSCSI, by `iscsiadm` and what the kernel shows in sysfs. No udev is needed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::IscsiUnit;
use crate::error::{Error, Result};
use crate::iscsi_record;
use crate::program::{flush_device, must, run};
use crate::sysfs::{self, entries};

const PROGRAM: &str = "iscsiadm";
/// Exit statuses of iscsiadm: a session exists already; there is no such session or record.
const SESSION_EXISTS: i32 = 15;
const NO_OBJECT: i32 = 21;
const SESSIONS: &str = "/sys/class/iscsi_session";
const DEVICE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Logs in to the unit's target, if need be, and gives the unit's device.
pub async fn connect(unit: &IscsiUnit) -> Result<PathBuf> {
    log_in(unit).await?;
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        if let Some(session) = session(&unit.iqn)? {
            if let Some(device) = device(&session, unit.lun)? {
                rescan(&device).await?;
                return Ok(device.node());
            }
            look_for(&session, unit.lun).await?;
        }
        if Instant::now() > deadline {
            let target = format!("unit {} of {} at {}", unit.lun, unit.iqn, unit.portal);
            return Err(Error::NoDevice { target, seconds: DEVICE_TIMEOUT.as_secs() });
        }
        sleep(POLL).await;
    }
}

async fn log_in(unit: &IscsiUnit) -> Result<()> {
    if session(&unit.iqn)?.is_some() {
        return Ok(());
    }
    if !run(PROGRAM, &node(unit, &[])).await?.status().success() {
        must(PROGRAM, "note the target", &node(unit, &["-o", "new"]), &[]).await?;
    }
    // Units are scanned by number: other units of the target may belong to somebody else.
    set(unit, "node.session.scan", "manual").await?;
    set(unit, "node.startup", "manual").await?;
    if let (Some(_), Some(name), Some(secret)) = (&unit.auth_method, &unit.auth_username, &unit.auth_password)
    {
        iscsi_record::set_chap(unit, name, secret)?;
    }
    let purpose = format!("log in to {} at {}", unit.iqn, unit.portal);
    must(PROGRAM, &purpose, &node(unit, &["--login"]), &[SESSION_EXISTS]).await
}

async fn set(unit: &IscsiUnit, name: &str, value: &str) -> Result<()> {
    must(PROGRAM, &format!("set {name}"), &node(unit, &["-o", "update", "-n", name, "-v", value]), &[]).await
}

fn node<'a>(unit: &'a IscsiUnit, more: &[&'a str]) -> Vec<&'a str> {
    [&["-m", "node", "-T", &unit.iqn, "-p", &unit.portal], more].concat()
}

/// Writes what the kernel still holds of the unit.
pub async fn flush(unit: &IscsiUnit) -> Result<()> {
    let Some(session) = session(&unit.iqn)? else { return Ok(()) };
    match device(&session, unit.lun)? {
        Some(device) => flush_device(device.node()).await,
        None => Ok(()),
    }
}

/// Removes the unit's device, and logs out if that was the session's last.
pub async fn disconnect(unit: &IscsiUnit) -> Result<()> {
    if let Some(session) = session(&unit.iqn)? {
        if let Some(device) = device(&session, unit.lun)? {
            remove(device).await?;
        }
        if devices(&session)?.is_empty() {
            let purpose = format!("log out of {}", unit.iqn);
            must(PROGRAM, &purpose, &node(unit, &["--logout"]), &[NO_OBJECT]).await?;
        }
    }
    if session(&unit.iqn)?.is_none() {
        must(PROGRAM, "forget the target", &node(unit, &["-o", "delete"]), &[NO_OBJECT]).await?;
    }
    Ok(())
}

/// A SCSI device of a session.
struct Device {
    /// Its folder, named `HOST:CHANNEL:TARGET:UNIT`.
    folder: PathBuf,
    unit: u32,
    /// The name of its block device.
    block: String,
}

impl Device {
    fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.block)
    }
}

/// The session with a target, in sysfs.
fn session(iqn: &str) -> Result<Option<PathBuf>> {
    let sessions = entries(Path::new(SESSIONS)).map_err(Error::io("read", SESSIONS))?;
    let is_wanted =
        |path: &PathBuf| fs::read_to_string(path.join("targetname")).is_ok_and(|name| name.trim() == iqn);
    Ok(sessions.into_iter().find(is_wanted).map(|path| path.join("device")))
}

fn device(session: &Path, unit: u32) -> Result<Option<Device>> {
    Ok(devices(session)?.into_iter().find(|device| device.unit == unit))
}

/// The disks of a session.
fn devices(session: &Path) -> Result<Vec<Device>> {
    let read = || -> io::Result<Vec<Device>> {
        let mut devices = Vec::new();
        for target in entries(session)?.into_iter().filter(|path| name_of(path).starts_with("target")) {
            for folder in entries(&target)? {
                let unit = name_of(&folder).rsplit_once(':').and_then(|(_, unit)| unit.parse().ok());
                let block = entries(&folder.join("block"))?.first().map(|path| name_of(path));
                if let (Some(unit), Some(block)) = (unit, block) {
                    devices.push(Device { folder, unit, block });
                }
            }
        }
        Ok(devices)
    };
    read().map_err(Error::io("read", session))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Asks the kernel to look for one unit of a session's target.
async fn look_for(session: &Path, unit: u32) -> Result<()> {
    let session = session.canonicalize().map_err(Error::io("find", session))?;
    let host = session.ancestors().map(name_of).find(|name| name.starts_with("host"));
    let scan = Path::new("/sys/class/scsi_host").join(host.unwrap_or_default()).join("scan");
    sysfs::write(&scan, format!("- - {unit}")).await.map_err(Error::io("write", scan))
}

/// Lets the kernel read again what the device has become since it was connected: its size above all.
async fn rescan(device: &Device) -> Result<()> {
    let path = device.folder.join("rescan");
    sysfs::write(&path, "1".to_owned()).await.map_err(Error::io("write", path))
}

async fn remove(device: Device) -> Result<()> {
    let delete = device.folder.join("delete");
    // The kernel first writes what it still holds of the device.
    let written = tokio::task::spawn_blocking(move || fs::write(delete, "1"));
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    while device.folder.exists() {
        if Instant::now() > deadline {
            return Err(Error::Stays { device: device.node(), seconds: DEVICE_TIMEOUT.as_secs() });
        }
        sleep(POLL).await;
    }
    // The device is gone: how the write ends does not matter.
    let _ = timeout_at(deadline, written).await;
    Ok(())
}
