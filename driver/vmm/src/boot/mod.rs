//! Direct boot of a Linux kernel.

mod mapped;
mod mptable;
mod parameters;
mod pvh;

pub use mptable::write_mp_table;
pub use pvh::{Entry, load};
