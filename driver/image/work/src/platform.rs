use oci_spec::image::{Arch, Descriptor, Os, Platform};

/// Whether an entry of an index is for this platform. One that names no platform is for any.
pub fn is_for_us(entry: &Descriptor) -> bool {
    let fits = |platform: &Platform| *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64;
    entry.platform().as_ref().is_none_or(fits)
}
