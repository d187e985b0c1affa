//! Arbitrary content of device queues, and arbitrary accesses to device registers.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::RefUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bolero::TypeGenerator;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::{
    Balloon, Block, BusDevice, Clients, Interrupt, Mem, MmioTransport, Rng, VirtioDevice, Vsock, Workers,
};
use vmm::{Confinement, DiskAccess, DiskConfig, Growth, RateLimit, VsockConfig};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub type Memory = vm_memory::GuestMemoryMmap<()>;

const MEMORY: usize = 1 << 20;
/// Addresses of the queues, each with its three parts, and of most buffers.
pub const QUEUES: u64 = 0x1000;
pub const QUEUE_SPACE: u64 = 0x3000;
const BUFFERS: u64 = 0x4_0000;
pub const QUEUE_SIZE: u16 = 16;
/// Time after which a device counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// Register offsets (virtio 1.2 §4.2.2) and device statuses (§2.1).
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
pub const QUEUE_NOTIFY: u64 = 0x050;
pub const STATUS: u64 = 0x070;
const QUEUE_DESC: u64 = 0x080;
const QUEUE_DRIVER: u64 = 0x090;
const QUEUE_DEVICE: u64 = 0x0a0;
const STEPS: [u32; 3] = [1, 3, 11];
pub const DRIVER_OK: u32 = 15;

/// A descriptor of a hostile guest.
#[derive(Debug, Clone, TypeGenerator)]
struct Descriptor {
    place: Place,
    length: Length,
    flags: u8,
    next: u8,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Place {
    Buffer(u16),
    Anywhere(u64),
}

#[derive(Debug, Clone, TypeGenerator)]
enum Length {
    Short(u8),
    Long(u16),
    Any(u32),
}

/// The content of one queue and of its buffers.
#[derive(Debug, Clone, TypeGenerator)]
struct Queue {
    descriptors: Vec<Descriptor>,
    available: Vec<u8>,
    index: Option<u16>,
    content: Vec<u8>,
}

impl Queue {
    fn write(&self, memory: &Memory, base: u64) {
        for (n, descriptor) in (0..u64::from(QUEUE_SIZE)).zip(&self.descriptors) {
            let address = match descriptor.place {
                Place::Buffer(offset) => BUFFERS + u64::from(offset),
                Place::Anywhere(address) => address,
            };
            let length = match descriptor.length {
                Length::Short(length) => length.into(),
                Length::Long(length) => length.into(),
                Length::Any(length) => length,
            };
            let rest = u64::from(length)
                | u64::from(descriptor.flags % 8) << 32
                | u64::from(descriptor.next % 20) << 48;
            memory.write_obj(address, GuestAddress(base + n * 16)).unwrap();
            memory.write_obj(rest, GuestAddress(base + n * 16 + 8)).unwrap();
        }
        let ring = base + 0x1000;
        for (n, head) in (0..u64::from(QUEUE_SIZE)).zip(&self.available) {
            memory.write_obj(u16::from(head % 20), GuestAddress(ring + 4 + n * 2)).unwrap();
        }
        let index = self.index.unwrap_or(self.available.len().min(QUEUE_SIZE.into()) as u16);
        memory.write_obj(index, GuestAddress(ring + 2)).unwrap();
        let content = &self.content[..self.content.len().min(0x1_0000)];
        memory.write_slice(content, GuestAddress(BUFFERS)).unwrap();
    }
}

pub fn write(device: &mut impl BusDevice, register: u64, value: u32) {
    device.write(register, &value.to_le_bytes());
}

pub fn read(device: &impl BusDevice, register: u64) -> u32 {
    let mut value = [0; 4];
    device.read(register, &mut value);
    u32::from_le_bytes(value)
}

/// Activates the device with all its queues, and returns their number.
pub fn negotiate(device: &mut impl BusDevice, features: u32) -> u32 {
    for status in &STEPS[..2] {
        write(device, STATUS, *status);
    }
    write(device, DRIVER_FEATURES_SEL, 0);
    let offered = read_features(device);
    write(device, DRIVER_FEATURES, features & offered);
    write(device, DRIVER_FEATURES_SEL, 1);
    write(device, DRIVER_FEATURES, 1);
    write(device, STATUS, STEPS[2]);
    let mut count = 0;
    loop {
        write(device, QUEUE_SEL, count);
        if read(device, QUEUE_NUM_MAX) == 0 {
            break;
        }
        let base = (QUEUES + u64::from(count) * QUEUE_SPACE) as u32;
        write(device, QUEUE_NUM, QUEUE_SIZE.into());
        for (register, address) in
            [(QUEUE_DESC, base), (QUEUE_DRIVER, base + 0x1000), (QUEUE_DEVICE, base + 0x2000)]
        {
            write(device, register, address);
        }
        write(device, QUEUE_READY, 1);
        count += 1;
    }
    write(device, STATUS, DRIVER_OK);
    assert_eq!(read(device, STATUS), DRIVER_OK);
    count
}

fn read_features(device: &mut impl BusDevice) -> u32 {
    write(device, DEVICE_FEATURES_SEL, 0);
    read(device, DEVICE_FEATURES)
}

/// A device with its memory and interrupt line.
pub struct Machine<D> {
    pub memory: Memory,
    pub device: MmioTransport<D>,
    line: Arc<EventFd>,
}

/// A test does not use it after a panic.
impl<D> RefUnwindSafe for Machine<D> {}

impl<D: VirtioDevice> Machine<D> {
    pub fn new(device: D) -> Self {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let line = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let workers = Workers::default();
        workers.begin(Confinement::None).unwrap();
        let interrupt = Interrupt::new(Arc::clone(&line));
        let device = MmioTransport::new(device, memory.clone(), interrupt, workers).unwrap();
        Self { memory, device, line }
    }

    /// Puts `queues` before the device and checks that it neither hangs nor panics.
    fn suffer(&mut self, queues: &[Queue], features: u32) {
        let began = Instant::now();
        let count = negotiate(&mut self.device, features);
        for (number, queue) in (0..count).zip(queues) {
            queue.write(&self.memory, QUEUES + u64::from(number) * QUEUE_SPACE);
            write(&mut self.device, QUEUE_NOTIFY, number);
        }
        // There is no interrupt if the device had nothing to do.
        let _ = poll(&mut [PollFd::new(borrow(&self.line), PollFlags::POLLIN)], PollTimeout::from(1u8));
        self.device.stop();
        self.device.resume().expect("its thread has not panicked");
        write(&mut self.device, STATUS, 0);
        assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
        assert_eq!(read(&self.device, STATUS), 0);
    }

    /// Writes and reads registers, and checks that the device can still be reset.
    fn access(&mut self, accesses: &[(u8, u32, bool)]) {
        for (register, value, small) in accesses {
            let (register, value) = (u64::from(*register) * 4, if *small { value % 16 } else { *value });
            write(&mut self.device, register, value);
            read(&self.device, register);
        }
        write(&mut self.device, STATUS, 0);
        assert_eq!(read(&self.device, STATUS), 0);
    }
}

fn borrow(event: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` is borrowed.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

pub fn try_queues(device: impl VirtioDevice) {
    let mut machine = Machine::new(device);
    let input = bolero::generator::produce::<(Vec<Queue>, u32)>();
    bolero::check!().with_generator(input).for_each(|(queues, features)| machine.suffer(queues, *features));
}

pub fn disk(access: DiskAccess) -> Block {
    let mut slot = Block::new(access).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 16).unwrap();
    slot.insert(DiskConfig { file, serial: "a".into(), limit: RateLimit::default() }).unwrap();
    slot
}

#[test]
fn queues_of_a_disk() {
    try_queues(disk(DiskAccess::ReadWrite));
}

#[test]
fn queues_of_a_disk_that_is_only_read() {
    try_queues(disk(DiskAccess::ReadOnly));
}

#[test]
fn queues_of_a_source_of_entropy() {
    try_queues(Rng::new().unwrap());
}

#[test]
fn queues_of_a_balloon() {
    try_queues(Balloon);
}

#[test]
fn queues_of_memory_to_come() {
    try_queues(Mem::new(Growth { start: 1 << 32, size: 128 << 20 }));
}

pub fn socket_device(folder: &std::path::Path) -> (Vsock, UnixStream) {
    let listener = UnixListener::bind(folder.join("socket")).unwrap();
    let (ready_signal, signalled) = UnixStream::pair().unwrap();
    let config = VsockConfig { cid: 3, listener, ready_signal };
    (Vsock::new(config, Clients::default()).unwrap(), signalled)
}

#[test]
fn queues_of_a_socket_device() {
    let folder = tempfile::tempdir().unwrap();
    let (device, _signalled) = socket_device(folder.path());
    try_queues(device);
}

/// A packet's header whose fields are mostly plausible (virtio 1.2 §5.10.6).
#[derive(Debug, Clone, TypeGenerator)]
struct Packet {
    ports: (Option<u32>, Option<u32>),
    kind: bool,
    operation: u8,
    flags: u8,
    length: u16,
    window: (u32, u32),
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let (guest, host) = (self.ports.0.unwrap_or(1024), self.ports.1.unwrap_or(0x4000_0000));
        let kind = if self.kind { 1u16 } else { 2 };
        [
            &3u64.to_le_bytes()[..],
            &2u64.to_le_bytes(),
            &guest.to_le_bytes(),
            &host.to_le_bytes(),
            &u32::from(self.length).to_le_bytes(),
            &kind.to_le_bytes(),
            &u16::from(self.operation % 9).to_le_bytes(),
            &u32::from(self.flags % 4).to_le_bytes(),
            &self.window.0.to_le_bytes(),
            &self.window.1.to_le_bytes(),
        ]
        .concat()
    }

    /// A chain of a header and data that the device reads.
    fn chain(&self) -> [Descriptor; 2] {
        let part = |offset, length, flags, next| Descriptor {
            place: Place::Buffer(offset),
            length: Length::Long(length),
            flags,
            next,
        };
        [part(0, 44, 1, 1), part(44, self.length, 0, 0)]
    }
}

#[test]
fn packets_of_a_socket_device() {
    let folder = tempfile::tempdir().unwrap();
    let (device, _signalled) = socket_device(folder.path());
    let mut machine = Machine::new(device);
    let input = bolero::generator::produce::<(Packet, Queue)>();
    let socket = folder.path().join("socket");
    bolero::check!().with_generator(input).for_each(|(packet, receive)| {
        let send = Queue {
            descriptors: packet.chain().to_vec(),
            available: vec![0],
            index: None,
            content: packet.bytes(),
        };
        // A client that waits for the guest's answer.
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(b"CONNECT 1024\n").unwrap();
        machine.suffer(&[receive.clone(), send], 0);
    });
}

#[test]
fn registers_in_any_order() {
    let mut machine = Machine::new(disk(DiskAccess::ReadWrite));
    let input = bolero::generator::produce::<Vec<(u8, u32, bool)>>();
    bolero::check!().with_generator(input).for_each(|accesses| machine.access(accesses));
}
