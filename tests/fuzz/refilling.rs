//! A driver that fills its queues faster than they are emptied: the device can still be taken away from it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::{Balloon, BusDevice, Mem, Rng, VirtioDevice};
use vmm::{DiskAccess, Growth};

use crate::devices::{
    DRIVER_OK, Machine, Memory, QUEUE_NOTIFY, QUEUE_SIZE, QUEUE_SPACE, QUEUES, STATUS, disk, negotiate, read,
    socket_device, write,
};
use crate::network::interface;

/// Time for a driver to get its queues into full swing, and for a device to be stopped.
const HEAD_START: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(5);
/// `VIRTQ_DESC_F_NEXT`.
const NEXT: u64 = 1;

/// Chains of all descriptors of a queue, each without a byte: the most work for the least progress.
fn write_chains(memory: &Memory, queue: u64) {
    let size = u64::from(QUEUE_SIZE);
    for n in 0..size {
        let next = if n + 1 == size { 0 } else { NEXT << 32 | (n + 1) << 48 };
        memory.write_obj([0, next], GuestAddress(queue + n * 16)).unwrap();
        memory.write_obj(0u16, GuestAddress(queue + 0x1000 + 4 + n * 2)).unwrap();
    }
}

/// Offers as many chains as the ring holds, again and again.
fn refill(memory: &Memory, queues: &[u64], enough: &AtomicBool) {
    while !enough.load(Ordering::Relaxed) {
        for queue in queues {
            let used: u16 = memory.read_obj(GuestAddress(queue + 0x2000 + 2)).unwrap();
            memory.write_obj(used.wrapping_add(QUEUE_SIZE), GuestAddress(queue + 0x1000 + 2)).unwrap();
        }
    }
}

fn is_taken_from_its_driver(device: impl VirtioDevice) {
    let mut machine = Machine::new(device);
    let count = negotiate(&mut machine.device, 0);
    let queues: Vec<_> = (0..count).map(|number| QUEUES + u64::from(number) * QUEUE_SPACE).collect();
    queues.iter().for_each(|queue| write_chains(&machine.memory, *queue));
    let (memory, enough) = (machine.memory.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| refill(&memory, &queues, &enough));
        (0..count).for_each(|number| write(&mut machine.device, QUEUE_NOTIFY, number));
        std::thread::sleep(HEAD_START);
        let began = Instant::now();
        machine.device.stop();
        machine.device.resume().expect("its thread has not panicked");
        assert_eq!(read(&machine.device, STATUS), DRIVER_OK);
        write(&mut machine.device, STATUS, 0);
        let took = began.elapsed();
        enough.store(true, Ordering::Relaxed);
        assert!(took < PATIENCE, "it took {took:?}");
    });
}

#[test]
fn a_source_of_entropy() {
    is_taken_from_its_driver(Rng::new().unwrap());
}

#[test]
fn a_balloon() {
    is_taken_from_its_driver(Balloon);
}

#[test]
fn memory_to_come() {
    is_taken_from_its_driver(Mem::new(Growth { start: 1 << 32, size: 128 << 20 }));
}

#[test]
fn a_disk() {
    is_taken_from_its_driver(disk(DiskAccess::ReadWrite));
}

#[test]
fn an_interface() {
    is_taken_from_its_driver(interface(1));
}

#[test]
fn an_interface_with_several_pairs() {
    is_taken_from_its_driver(interface(2));
}

#[test]
fn a_socket_device() {
    let folder = tempfile::tempdir().unwrap();
    let (device, _signalled) = socket_device(folder.path());
    is_taken_from_its_driver(device);
}
