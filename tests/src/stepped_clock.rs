//! A compute host whose clock is wrong.

use crate::cloud::Cloud;

/// The clock of a lab's machine, until this goes: then the RTC sets it right.
pub struct SteppedClock<'a>(&'a Cloud);

impl<'a> SteppedClock<'a> {
    /// Steps it by so many seconds.
    pub fn by(cloud: &'a Cloud, seconds: i64) -> Self {
        let clock = Self(cloud);
        cloud
            .shell(&format!("touch /run/clock-is-stepped; date -s @$(($(date +%s) + {seconds})) >/dev/null"));
        clock
    }
}

impl Drop for SteppedClock<'_> {
    fn drop(&mut self) {
        let right = "date -s @$(cat /sys/class/rtc/rtc0/since_epoch) >/dev/null; rm -f /run/clock-is-stepped";
        self.0.on_host(&["sh", "-c", right]);
    }
}
