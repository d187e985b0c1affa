//! Virtual CPUs: what the guest sees of them, and the threads that run them.

mod cpuid;
mod orders;
mod registers;
mod vcpu;

pub use vcpu::{VcpuEnd, VcpuSet, install_kick_handler};
