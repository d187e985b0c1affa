//! What tells a guest from others that go on from the same template: its randomness and its clock.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::error::{Error, Result};

/// Most bytes of a seed that are of any use.
const SEED_MAX: usize = 4096;
const MICROSECOND: i64 = 1000;

nix::ioctl_none!(reseed_generator, b'R', 0x07);

/// Mixes `seed` into the kernel's generator, and lets it start over from what it was given.
pub fn reseed(seed: &[u8]) -> Result<()> {
    const WHAT: &str = "reseed the random number generator";
    let mut generator = File::options().write(true).open("/dev/urandom").map_err(Error::io(WHAT))?;
    generator.write_all(&seed[..seed.len().min(SEED_MAX)]).map_err(Error::io(WHAT))?;
    // SAFETY: the request has no argument, and the descriptor is open.
    unsafe { reseed_generator(generator.as_raw_fd()) }.map_err(Error::io(WHAT))?;
    Ok(())
}

/// Sets the clock to a time since the epoch.
pub fn set_time(seconds: i64, microseconds: i64) -> Result<()> {
    let failed = Error::io("set the clock");
    let Some(nanoseconds) =
        microseconds.checked_mul(MICROSECOND).filter(|part| (0..1_000_000_000).contains(part))
    else {
        return Err(failed(nix::Error::EINVAL));
    };
    let time = TimeSpec::from_timespec(libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds });
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(failed)
}
