//! Virtual CPUs: their initial and saved state, and the threads that run them.

mod cpuid;
mod orders;
#[cfg(test)]
mod orders_model;
#[cfg(test)]
mod orders_tests;
mod registers;
mod state;
mod vcpu;

pub use state::VcpuState;
pub use vcpu::{VcpuEnd, VcpuSet, Vcpus, install_kick_handler};

/// What [`orders`] is built on: in its model, it is another.
mod sync {
    pub use std::sync::atomic::AtomicBool;
    pub use std::sync::{Condvar, Mutex, MutexGuard};
}
