//! Virtual CPUs: their initial and saved state, and the threads that run them.

mod cpuid;
mod orders;
mod registers;
mod state;
mod vcpu;

pub use state::VcpuState;
pub use vcpu::{VcpuEnd, VcpuSet, Vcpus, install_kick_handler};
