//! A disk that is full.

use crate::cloud::Cloud;

/// Fills the compute host's disk but for a little. It goes with its owner.
pub struct Ballast<'a>(&'a Cloud);

impl<'a> Ballast<'a> {
    /// Fills it.
    pub fn load(cloud: &'a Cloud) -> Self {
        let ballast = Self(cloud);
        cloud.shell(
            "cd /var/lib/zun-kata; free=$(($(stat -f -c '%f * %S' .))); fallocate -l $((free - 80000000)) ballast
             cat /dev/zero >ballast-rest 2>/dev/null || true; truncate -s -1000000 ballast-rest",
        );
        ballast
    }
}

impl Drop for Ballast<'_> {
    fn drop(&mut self) {
        self.0.on_host(&["rm", "-f", "/var/lib/zun-kata/ballast", "/var/lib/zun-kata/ballast-rest"]);
    }
}
