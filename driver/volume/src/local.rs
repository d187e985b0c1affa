//! Block devices that this host has by other means than ours: its own LVM, DRBD and others.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use crate::connection::LocalDevice;
use crate::error::{Error, Result};
use crate::program::flush_device;

/// The device, which must be there.
pub fn connect(device: &LocalDevice) -> Result<PathBuf> {
    let path = &device.device_path;
    let metadata = fs::metadata(path).map_err(Error::io("find", path))?;
    if metadata.file_type().is_block_device() { Ok(path.clone()) } else { Err(Error::NoDisk(path.clone())) }
}

/// Writes what the kernel still holds of the device.
pub async fn flush(device: &LocalDevice) -> Result<()> {
    let path = &device.device_path;
    if path.exists() { flush_device(path.clone()).await } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_block_device_is_one() {
        let connected = |path: &str| connect(&LocalDevice { device_path: path.into() });
        assert_eq!(connected("/dev/null").unwrap_err().to_string(), "/dev/null is no block device");
        assert!(connected("/dev/none").unwrap_err().to_string().contains("find /dev/none"));
    }
}
