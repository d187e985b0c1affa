use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a disk's driver waits for room on the host. A guest that is to end in order must not: what else it has to write would
/// be lost with it.
#[derive(Debug, Clone, Default)]
pub struct Patience(Arc<AtomicBool>);

impl Patience {
    /// From now on, what finds no room fails.
    pub fn end(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
