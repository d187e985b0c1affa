//! Queues of an interface, with a tap in a network of the test's own.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use vmm::virtio::Net;
use vmm::{MacAddress, NicConfig, RateLimit, TapQueue};

use crate::devices::try_queues;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);

/// A tap that is up and goes with its descriptor, in a network that goes with this thread.
fn tap() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"zkf0") {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open and the request lives through the call.
    unsafe { tun_set_iff(tap.as_raw_fd(), &raw const request) }.unwrap();
    // The kernel then sends of itself, to find its neighbours.
    assert!(Command::new("ip").args(["link", "set", "zkf0", "up"]).status().unwrap().success());
    tap
}

#[test]
fn queues_of_an_interface() {
    try_interface(1);
}

#[test]
fn queues_of_an_interface_with_several_pairs() {
    try_interface(2);
}

fn try_interface(pairs: u8) {
    try_queues(interface(pairs));
}

/// An interface with so many pairs of queues, of which the first has a tap.
pub fn interface(pairs: u8) -> Net {
    let mut slot = Net::new(MacAddress([2, 0, 0, 0, 0, 1]), pairs);
    let queues = vec![TapQueue { tap: tap(), vhost: None }];
    slot.insert(NicConfig { queues, limit: RateLimit::default() }).unwrap();
    slot
}
