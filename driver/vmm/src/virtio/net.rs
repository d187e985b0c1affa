//! The network device (virtio 1.2 §5.1) on a tap. Packets carry the virtio header that the tap understands, so
//! that a guest's checksums and segmentation are left to the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;

use super::poll::{Poll, drain};
use super::{Active, VirtioDevice};
use crate::config::NicConfig;
use crate::{Error, Result};

ioctl_iow_nr!(TUNSETOFFLOAD, 0x54, 208, libc::c_uint);
ioctl_iow_nr!(TUNSETVNETHDRSZ, 0x54, 216, libc::c_int);

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const TOKEN_RECEIVE: u64 = 0;
const TOKEN_TRANSMIT: u64 = 1;
const TOKEN_TAP: u64 = 2;
const TOKEN_STOP: u64 = 3;

/// `struct virtio_net_hdr_v1`.
const HEADER_SIZE: libc::c_int = 12;
/// The header with the largest packet that segmentation offload makes.
const PACKET_MAX: usize = 12 + 65550;
const CONFIG_SIZE: usize = 12;

/// A network interface.
pub struct Net {
    tap: File,
    config: [u8; CONFIG_SIZE],
}

impl Net {
    /// Prepares the tap: non-blocking, headers of virtio 1, no offload towards the guest.
    pub fn new(nic: NicConfig) -> Result<Self> {
        let fd = nic.tap.as_raw_fd();
        // SAFETY: fcntl on a descriptor that we own, with integer arguments.
        let status = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
        check(status, "make a tap non-blocking")?;
        // SAFETY: the argument points to an integer that lives through the call.
        let status = unsafe { ioctl_with_ref(&nic.tap, TUNSETVNETHDRSZ(), &HEADER_SIZE) };
        check(status, "set a tap's header size")?;
        // SAFETY: the argument is a plain set of bits.
        let status = unsafe { ioctl_with_val(&nic.tap, TUNSETOFFLOAD(), 0) };
        check(status, "set a tap's offloads")?;

        let mut config = [0; CONFIG_SIZE];
        config[..6].copy_from_slice(&nic.mac.0);
        config[10..].copy_from_slice(&nic.mtu.to_le_bytes());
        Ok(Self { tap: nic.tap, config })
    }
}

fn check(status: libc::c_int, what: &'static str) -> Result<()> {
    if status < 0 { Err(Error::Io { what, source: io::Error::last_os_error() }) } else { Ok(()) }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_NET_F_MAC)
            | (1 << VIRTIO_NET_F_MTU)
            | (1 << VIRTIO_NET_F_CSUM)
            | (1 << VIRTIO_NET_F_HOST_TSO4)
            | (1 << VIRTIO_NET_F_HOST_TSO6)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn config_space(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, active: Active) -> Result<()> {
        let mut server = Server { tap: &mut self.tap, active, buffer: vec![0; PACKET_MAX], held: None };
        server.run()
    }
}

struct Server<'a> {
    tap: &'a mut File,
    active: Active,
    buffer: Vec<u8>,
    /// Length of a packet in `buffer` that waits for the driver to offer a buffer.
    held: Option<usize>,
}

impl Server<'_> {
    fn run(&mut self) -> Result<()> {
        let poll = Poll::new()?;
        poll.add(&self.active.notifications[RECEIVE], TOKEN_RECEIVE, EventSet::IN)?;
        poll.add(&self.active.notifications[TRANSMIT], TOKEN_TRANSMIT, EventSet::IN)?;
        poll.add(self.tap, TOKEN_TAP, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        poll.add(&self.active.stop, TOKEN_STOP, EventSet::IN)?;
        loop {
            for ready in poll.wait()? {
                match ready.token {
                    TOKEN_STOP => return Ok(()),
                    TOKEN_TRANSMIT => {
                        drain(&self.active.notifications[TRANSMIT]);
                        self.transmit()?;
                    }
                    TOKEN_RECEIVE => {
                        drain(&self.active.notifications[RECEIVE]);
                        self.receive()?;
                    }
                    _ => self.receive()?,
                }
            }
        }
    }

    /// Moves packets from the tap to the guest until one of them has no more.
    fn receive(&mut self) -> Result<()> {
        loop {
            let length = match self.held.take() {
                Some(length) => length,
                None => match self.tap.read(&mut self.buffer) {
                    Ok(length) => length,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        tracing::warn!("a tap cannot be read: {e}");
                        break;
                    }
                },
            };
            if !self.deliver(length)? {
                self.held = Some(length);
                break;
            }
        }
        self.active.notify_driver(RECEIVE)
    }

    /// Gives the packet in the buffer to the guest; false if the driver offers no buffer. A packet that does not
    /// fit the offered buffer is dropped, as a wire would.
    fn deliver(&mut self, length: usize) -> Result<bool> {
        let memory = self.active.memory.clone();
        let packet = &mut self.buffer[..length];
        // `num_buffers` is 1 where receive buffers are not merged.
        packet[10..12].copy_from_slice(&1u16.to_le_bytes());
        let Some(chain) = self.active.pop(RECEIVE, &memory)? else { return Ok(false) };
        let head = chain.head_index();
        let written = match chain.writer(&memory) {
            Ok(mut writer) if writer.available_bytes() >= length => {
                writer.write_all(packet).map_or(0, |()| length)
            }
            _ => 0,
        };
        self.active.give_back(RECEIVE, head, written as u32)?;
        Ok(true)
    }

    fn transmit(&mut self) -> Result<()> {
        let memory = self.active.memory.clone();
        let mut packet = vec![0; PACKET_MAX];
        while let Some(chain) = self.active.pop(TRANSMIT, &memory)? {
            let head = chain.head_index();
            if let Ok(mut reader) = chain.reader(&memory) {
                let length = reader.available_bytes();
                // A tap whose queue is full drops the packet, as a wire would.
                if length <= PACKET_MAX && reader.read_exact(&mut packet[..length]).is_ok() {
                    let _ = self.tap.write(&packet[..length]);
                }
            }
            self.active.give_back(TRANSMIT, head, 0)?;
        }
        self.active.notify_driver(TRANSMIT)
    }
}
