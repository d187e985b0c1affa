//! The register window of a device (virtio 1.2 §4.2.2), as a state machine whose order a hostile driver cannot break:
//! features change only before `FEATURES_OK`, queues only before `DRIVER_OK`.

use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use super::backend::Backend;
use super::{BusDevice, ConfigSpace, Interrupt, TransportState, VirtioDevice, Workers, register};
use crate::memory::Memory;
use crate::{Error, Result};

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = 0x615a_4b61;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

/// One device's register window.
pub struct MmioTransport<D> {
    backend: Backend<D>,
    device_type: u32,
    offered: u64,
    config: ConfigSpace,
    config_generation: u32,
    interrupt: Interrupt,
    selected_queue: usize,
    device_features_page: u32,
    driver_features_page: u32,
    accepted: u64,
    status: u32,
}

/// A transport that the bus and a handle share.
pub type SharedTransport<D> = Arc<Mutex<MmioTransport<D>>>;

impl<D: VirtioDevice> MmioTransport<D> {
    /// A window onto `device`, whose buffers are in `memory` and which `workers` serve.
    pub fn new(device: D, memory: Memory, interrupt: Interrupt, workers: Workers) -> Result<Self> {
        Ok(Self {
            device_type: device.device_type(),
            offered: device.features() | (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_EVENT_IDX),
            config: device.config_space(),
            config_generation: 0,
            backend: Backend::new(device, memory, interrupt.clone(), workers)?,
            interrupt,
            selected_queue: 0,
            device_features_page: 0,
            driver_features_page: 0,
            accepted: 0,
            status: 0,
        })
    }

    /// Makes KVM deliver queue notifications of the window at `base` without an exit to this process.
    pub fn register_notifications(&self, vm: &VmFd, base: u64) -> Result<()> {
        let address = IoEventAddress::Mmio(base + register::QUEUE_NOTIFY);
        for (index, event) in (0u32..).zip(self.backend.notifications()) {
            vm.register_ioevent(event, &address, index)
                .map_err(Error::kvm("connect a queue's notification"))?;
        }
        Ok(())
    }

    /// Changes the device while no worker serves it, and notifies the driver.
    pub fn change(&mut self, change: impl FnOnce(&mut D) -> Result<()>) -> Result<()> {
        self.stop();
        let changed = self.backend.device().and_then(change);
        self.resume()?;
        changed?;
        self.tell_of_change();
        Ok(())
    }

    /// Notifies the driver of a changed configuration space.
    pub fn tell_of_change(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.status == DRIVER_OK {
            self.interrupt.config();
        }
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device_type,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => page(self.offered, self.device_features_page),
            register::QUEUE_NUM_MAX => {
                let sizes = self.backend.queue_sizes();
                sizes.get(self.selected_queue).map_or(0, |size| u32::from(*size))
            }
            register::QUEUE_READY => u32::from(self.backend.is_queue_ready(self.selected_queue)),
            register::INTERRUPT_STATUS => self.interrupt.status(),
            register::STATUS => self.status,
            register::CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_page = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_page = value,
            register::DRIVER_FEATURES => self.accept_features(value),
            register::QUEUE_SEL => self.selected_queue = value as usize,
            register::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::STATUS => self.set_status(value),
            // Reached only by a notification that matches no registered ioevent.
            register::QUEUE_NOTIFY => {
                if let Some(event) = self.backend.notifications().get(value as usize)
                    && let Err(e) = event.write(1)
                {
                    tracing::warn!(error = %e, "a queue notification is lost");
                }
            }
            _ => self.set_queue_register(offset, value),
        }
    }

    fn accept_features(&mut self, value: u32) {
        if self.status != DRIVER {
            return;
        }
        let shift = match self.driver_features_page {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.accepted = (self.accepted & !(u64::from(u32::MAX) << shift)) | (u64::from(value) << shift);
    }

    /// Queue registers take effect only between `FEATURES_OK` and `DRIVER_OK`.
    fn set_queue_register(&mut self, offset: u64, value: u32) {
        if self.status != FEATURES_OK {
            return;
        }
        let selected = self.selected_queue;
        let Some(queue) = self.backend.queues().and_then(|queues| queues.get_mut(selected)) else { return };
        match offset {
            register::QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            register::QUEUE_READY => queue.set_ready(value == 1),
            register::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            register::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if value & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status |= VIRTIO_CONFIG_S_FAILED;
            return;
        }
        match (self.status, value) {
            (0, ACKNOWLEDGE) | (ACKNOWLEDGE, DRIVER) => self.status = value,
            (DRIVER, FEATURES_OK) if self.features_acceptable() => self.status = value,
            (FEATURES_OK, DRIVER_OK) => self.activate(),
            _ => tracing::debug!("status {value:#x} after {:#x} is ignored", self.status),
        }
    }

    fn features_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn activate(&mut self) {
        let started =
            self.backend.check_queues(self.uses_event_idx()).and_then(|()| self.backend.start(self.accepted));
        match started {
            Ok(()) => self.status = DRIVER_OK,
            Err(e) => {
                tracing::warn!(device_type = self.device_type, error = %e, "a device cannot be activated");
                self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            }
        }
    }

    fn uses_event_idx(&self) -> bool {
        self.accepted & (1 << VIRTIO_RING_F_EVENT_IDX) != 0
    }

    fn reset(&mut self) {
        if let Err(e) = self.backend.reset() {
            tracing::error!(device_type = self.device_type, error = %e, "a device cannot be reset");
        }
        self.interrupt.reset();
        self.selected_queue = 0;
        self.device_features_page = 0;
        self.driver_features_page = 0;
        self.accepted = 0;
        self.status = 0;
    }
}

impl<D: VirtioDevice> BusDevice for MmioTransport<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(start) = offset.checked_sub(register::CONFIG) {
            return self.config.read(start, data);
        }
        if data.len() == 4 {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            self.set_register(offset, u32::from_le_bytes(bytes));
        }
    }

    fn stop(&mut self) {
        self.backend.stop();
    }

    fn resume(&mut self) -> Result<()> {
        if self.status == DRIVER_OK { self.backend.start(self.accepted) } else { Ok(()) }
    }

    fn close(&mut self) {
        self.backend.close();
    }

    fn state(&mut self) -> Result<TransportState> {
        let (selected_queue, accepted, status) = (self.selected_queue as u64, self.accepted, self.status);
        let queues = self.backend.queues().ok_or_else(|| Error::Snapshot("a device still runs".into()))?;
        let queues = queues.iter().map(|queue| queue.state().into()).collect();
        Ok(TransportState {
            device_type: self.device_type,
            offered: self.offered,
            queues,
            queue_pairs: self.backend.device()?.queue_pairs(),
            selected_queue,
            device_features_page: self.device_features_page,
            driver_features_page: self.driver_features_page,
            accepted,
            status,
            interrupt_status: self.interrupt.status(),
            config_generation: self.config_generation,
        })
    }

    fn restore(&mut self, state: &TransportState) -> Result<()> {
        let sizes = self.backend.queue_sizes();
        let fits = state.device_type == self.device_type
            && state.offered == self.offered
            && state.accepted & !state.offered == 0
            && state.queues.iter().map(|queue| queue.max_size).eq(sizes.iter().copied());
        let queues = self.backend.queues().filter(|_| fits);
        *queues.ok_or_else(|| Error::Snapshot(format!("device {} is another one", self.device_type)))? =
            state.queues.iter().map(|queue| queue.to_queue()).collect::<Result<_>>()?;
        self.backend.device()?.set_queue_pairs(state.queue_pairs)?;
        self.selected_queue = usize::try_from(state.selected_queue).unwrap_or(usize::MAX);
        self.device_features_page = state.device_features_page;
        self.driver_features_page = state.driver_features_page;
        self.accepted = state.accepted;
        self.status = state.status;
        self.config_generation = state.config_generation;
        self.interrupt.restore(state.interrupt_status);
        self.backend.check_queues(self.uses_event_idx())
    }
}

/// One half of a 64-bit feature set.
fn page(features: u64, page: u32) -> u32 {
    match page {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DiskAccess, DiskConfig, RateLimit};
    use crate::event::event_fd;
    use crate::virtio::{Active, Block, Traffic};

    const CONFIG: [u8; 4] = [1, 2, 3, 4];

    struct Idle;

    impl VirtioDevice for Idle {
        fn device_type(&self) -> u32 {
            4
        }
        fn features(&self) -> u64 {
            1 << 5
        }
        fn queue_sizes(&self) -> &'static [u16] {
            &[64]
        }
        fn config_space(&self) -> ConfigSpace {
            ConfigSpace::new(&CONFIG)
        }
        fn serve(&mut self, active: &mut Active) -> Result<()> {
            let mut poll = libc::pollfd {
                fd: std::os::fd::AsRawFd::as_raw_fd(&active.stop),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: `poll` is one valid structure and lives through the call.
            unsafe { libc::poll(&raw mut poll, 1, -1) };
            Ok(())
        }
    }

    fn transport() -> MmioTransport<Idle> {
        let memory = Memory::from_ranges(&[(vm_memory::GuestAddress(0), 1 << 20)]).unwrap();
        MmioTransport::new(Idle, memory, Interrupt::new(event_fd().unwrap().into()), Workers::begun())
            .unwrap()
    }

    fn read(transport: &impl BusDevice, offset: u64) -> u32 {
        let mut data = [0; 4];
        transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(transport: &mut impl BusDevice, offset: u64, value: u32) {
        transport.write(offset, &value.to_le_bytes());
    }

    fn negotiate(transport: &mut impl BusDevice) {
        write(transport, register::STATUS, ACKNOWLEDGE);
        write(transport, register::STATUS, DRIVER);
        write(transport, register::DRIVER_FEATURES_SEL, 1);
        write(transport, register::DRIVER_FEATURES, 1);
        write(transport, register::STATUS, FEATURES_OK);
    }

    fn set_up_queue(transport: &mut impl BusDevice, desc: u32) {
        write(transport, register::QUEUE_NUM, 16);
        write(transport, register::QUEUE_DESC_LOW, desc);
        write(transport, register::QUEUE_DRIVER_LOW, 0x2000);
        write(transport, register::QUEUE_DEVICE_LOW, 0x3000);
        write(transport, register::QUEUE_READY, 1);
    }

    #[test]
    fn identity_and_config_are_read() {
        let transport = transport();
        assert_eq!(read(&transport, register::MAGIC), u32::from_le_bytes(*b"virt"));
        assert_eq!((read(&transport, register::VERSION), read(&transport, register::DEVICE_ID)), (2, 4));
        assert_eq!(read(&transport, register::CONFIG), u32::from_le_bytes(CONFIG));
        assert_eq!(read(&transport, register::CONFIG + 2), 0, "a read across the end gives zeros");
        let mut byte = [0];
        transport.read(register::CONFIG + 1, &mut byte);
        assert_eq!(byte, [2]);
    }

    #[test]
    fn a_driver_that_keeps_the_order_is_served_and_may_reset() {
        let mut transport = transport();
        for _ in 0..2 {
            write(&mut transport, register::STATUS, 0);
            negotiate(&mut transport);
            assert_eq!(read(&transport, register::STATUS), FEATURES_OK);
            set_up_queue(&mut transport, 0x1000);
            write(&mut transport, register::STATUS, DRIVER_OK);
            assert_eq!(read(&transport, register::STATUS), DRIVER_OK);
            assert!(transport.backend.queues().is_none(), "a worker has them");
            write(&mut transport, register::STATUS, 0);
            assert_eq!(read(&transport, register::STATUS), 0);
        }
    }

    #[test]
    fn steps_out_of_order_are_ignored() {
        let mut transport = transport();
        write(&mut transport, register::STATUS, DRIVER_OK);
        assert_eq!(read(&transport, register::STATUS), 0);
        set_up_queue(&mut transport, 0x1000);
        assert_eq!(read(&transport, register::QUEUE_READY), 0);
    }

    #[test]
    fn features_that_were_not_offered_are_refused() {
        let mut transport = transport();
        write(&mut transport, register::STATUS, ACKNOWLEDGE);
        write(&mut transport, register::STATUS, DRIVER);
        write(&mut transport, register::DRIVER_FEATURES, 1 << 6);
        write(&mut transport, register::DRIVER_FEATURES_SEL, 1);
        write(&mut transport, register::DRIVER_FEATURES, 1);
        write(&mut transport, register::STATUS, FEATURES_OK);
        assert_eq!(read(&transport, register::STATUS), DRIVER);
    }

    #[test]
    fn queues_do_not_change_while_active() {
        let mut transport = transport();
        negotiate(&mut transport);
        set_up_queue(&mut transport, 0x1000);
        write(&mut transport, register::STATUS, DRIVER_OK);
        write(&mut transport, register::QUEUE_NUM, 64);
        write(&mut transport, register::QUEUE_DESC_LOW, 0x9000);
        assert!(transport.backend.queues().is_none(), "a worker has them");
        transport.stop();
        let queue = &transport.backend.queues().unwrap()[0];
        assert_eq!((queue.size(), queue.desc_table()), (16, 0x1000));
    }

    #[test]
    fn a_slot_is_filled_and_emptied_while_its_driver_is_active() {
        let memory = Memory::from_ranges(&[(vm_memory::GuestAddress(0), 1 << 20)]).unwrap();
        let slot = Block::new(DiskAccess::ReadOnly).unwrap();
        let traffic = slot.traffic();
        let interrupt = Interrupt::new(event_fd().unwrap().into());
        let mut transport = MmioTransport::new(slot, memory, interrupt, Workers::begun()).unwrap();
        negotiate(&mut transport);
        set_up_queue(&mut transport, 0x1000);
        write(&mut transport, register::STATUS, DRIVER_OK);
        assert!(transport.change(Block::eject).is_err(), "nothing is in it");
        for generation in [1, 3] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(5 * 512).unwrap();
            let disk = DiskConfig { file, serial: "a".into(), limit: RateLimit::default() };
            transport.change(|slot| slot.insert(disk)).unwrap();
            assert_eq!(
                (read(&transport, register::CONFIG), read(&transport, register::STATUS)),
                (5, DRIVER_OK)
            );
            assert!(transport.backend.queues().is_none(), "a worker serves it");
            assert_eq!(read(&transport, register::CONFIG_GENERATION), generation);
            assert_eq!(traffic.traffic(), Traffic::default(), "what another disk moved is not this one's");
            traffic.incoming(1);
            transport.change(Block::eject).unwrap();
            assert_eq!(read(&transport, register::CONFIG), 0);
            assert!(transport.backend.queues().is_some(), "none does");
        }
    }

    #[test]
    fn a_queue_outside_memory_needs_a_reset() {
        let mut transport = transport();
        negotiate(&mut transport);
        set_up_queue(&mut transport, 0xf000_0000);
        write(&mut transport, register::STATUS, DRIVER_OK);
        assert_ne!(read(&transport, register::STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    }
}
