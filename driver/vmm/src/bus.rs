//! Routes a guest's port and memory-mapped accesses to devices.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial, SerialState};
use vmm_sys_util::eventfd::EventFd;

use crate::console::ConsoleRing;
use crate::layout::{RESET_PORT, SERIAL_PORT, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};
use crate::virtio::{BusDevice, TransportState};
use crate::{Error, Result};

const RESET_COMMAND: u8 = 0xfe;
const SERIAL_REGISTERS: u16 = 8;

/// Raises the serial port's interrupt.
#[derive(Debug)]
pub struct SerialInterrupt(pub EventFd);

impl Trigger for SerialInterrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl Deref for SerialInterrupt {
    type Target = EventFd;

    fn deref(&self) -> &EventFd {
        &self.0
    }
}

type SerialPort = Serial<SerialInterrupt, NoEvents, ConsoleRing>;

/// A device on the bus, which a handle may share.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// All devices that a guest can address. As on hardware, a load from no device reads as ones and a store to none is
/// lost.
pub struct Bus {
    serial: Mutex<SerialPort>,
    console: ConsoleRing,
    virtio: Vec<SharedDevice>,
}

impl Bus {
    /// A bus with a serial port that writes to `console`, and `virtio` devices in window order.
    pub fn new(interrupt: SerialInterrupt, console: ConsoleRing, virtio: Vec<SharedDevice>) -> Self {
        Self { serial: Mutex::new(Serial::new(interrupt, console.clone())), console, virtio }
    }

    /// A guest's `OUT`. Returns true if it requests a reset of the machine.
    pub fn port_write(&self, port: u16, data: &[u8]) -> bool {
        if let (Some(offset), [value]) = (serial_offset(port), data)
            && let Err(e) = lock(&self.serial).write(offset, *value)
        {
            tracing::warn!("the serial port failed: {e:?}");
        }
        port == RESET_PORT && data == [RESET_COMMAND]
    }

    /// A guest's `IN`.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        // The keyboard controller's status must read as ready, or Linux waits before it resets.
        let idle = if port == RESET_PORT { 0 } else { 0xff };
        data.fill(idle);
        if let (Some(offset), [value]) = (serial_offset(port), data) {
            *value = lock(&self.serial).read(offset);
        }
    }

    /// A guest's load from a device window.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.device_at(address) {
            device.read(offset, data);
        }
    }

    /// A guest's store to a device window.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((mut device, offset)) = self.device_at(address) {
            device.write(offset, data);
        }
    }

    /// Ends the worker threads of all devices.
    pub fn stop_devices(&self) {
        for device in &self.virtio {
            lock(device).stop();
        }
    }

    /// Ends the worker threads of all devices and releases the devices for good.
    pub fn close_devices(&self) {
        for device in &self.virtio {
            lock(device).close();
        }
    }

    /// Starts workers again for the devices whose drivers are active.
    pub fn resume_devices(&self) -> Result<()> {
        // All are tried after a failure: a guest runs better with most of its devices than with few.
        self.virtio.iter().map(|device| lock(device).resume()).fold(Ok(()), Result::and)
    }

    /// Number of virtio devices.
    pub fn device_count(&self) -> usize {
        self.virtio.len()
    }

    /// The state of all devices, which must be stopped.
    pub fn state(&self) -> Result<(SerialState, Vec<TransportState>)> {
        let devices = self.virtio.iter().map(|device| lock(device).state()).collect::<Result<_>>()?;
        Ok((lock(&self.serial).state(), devices))
    }

    /// Brings new devices to their states.
    pub fn restore(&self, serial: &SerialState, devices: &[TransportState]) -> Result<()> {
        if devices.len() != self.virtio.len() {
            return Err(Error::Snapshot(format!(
                "it has {} devices, not {}",
                devices.len(),
                self.virtio.len()
            )));
        }
        let mut port = lock(&self.serial);
        let interrupt = port.interrupt_evt().0.try_clone().map_err(Error::io("copy an event descriptor"))?;
        *port = Serial::from_state(serial, SerialInterrupt(interrupt), NoEvents, self.console.clone())
            .map_err(|e| Error::Snapshot(format!("its serial port cannot be had: {e:?}")))?;
        self.virtio.iter().zip(devices).try_for_each(|(device, state)| lock(device).restore(state))
    }

    fn device_at(&self, address: u64) -> Option<(MutexGuard<'_, dyn BusDevice + 'static>, u64)> {
        let relative = address.checked_sub(VIRTIO_MMIO_BASE)?;
        let index = usize::try_from(relative / VIRTIO_MMIO_SIZE).ok()?;
        let device = self.virtio.get(index)?;
        Some((lock(device), relative % VIRTIO_MMIO_SIZE))
    }
}

fn serial_offset(port: u16) -> Option<u8> {
    let offset = port.checked_sub(SERIAL_PORT).filter(|offset| *offset < SERIAL_REGISTERS)?;
    u8::try_from(offset).ok()
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_routed() {
        let console = ConsoleRing::default();
        let bus = Bus::new(SerialInterrupt(EventFd::new(0).unwrap()), console.clone(), Vec::new());
        assert!(!bus.port_write(SERIAL_PORT, b"x"));
        assert_eq!(console.text(), "x");
        assert!(bus.port_write(RESET_PORT, &[RESET_COMMAND]));
        assert!(!bus.port_write(RESET_PORT, &[0xd1]));
        let mut data = [0; 4];
        bus.port_read(0x70, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.mmio_read(VIRTIO_MMIO_BASE, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.mmio_write(u64::MAX, &data);
    }
}
