//! Orders of a machine's owner to its vCPU threads.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard};

/// An order to all vCPU threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Run the guest.
    Run,
    /// Stay out of the guest until the next order.
    Pause,
    /// End.
    End,
}

/// The next step of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Enter the guest.
    Enter,
    /// Enter the guest after a pause.
    EnterAfterPause,
    /// End.
    End,
}

/// The order in force, shared by the threads and their owner.
#[derive(Debug)]
pub struct Orders {
    /// False while the order is to run, so that threads take no lock between two guest entries.
    news: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// Number of threads that wait for the end of a pause.
    held: usize,
}

impl Orders {
    /// Orders whose first is to run.
    pub fn new() -> Self {
        Self {
            news: AtomicBool::new(false),
            state: Mutex::new(State { order: Order::Run, held: 0 }),
            changed: Condvar::new(),
        }
    }

    /// Gives an order; threads in the guest see it when they leave it. [`Order::End`] is the last one.
    pub fn give(&self, order: Order) {
        let mut state = self.state();
        if state.order != Order::End {
            state.order = order;
            self.news.store(order != Order::Run, Ordering::SeqCst);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The next step of the calling thread. Blocks during a pause.
    pub fn next(&self) -> Turn {
        if !self.news.load(Ordering::SeqCst) {
            return Turn::Enter;
        }
        let mut state = self.state();
        if state.order == Order::Run {
            return Turn::Enter;
        }
        state.held += 1;
        self.changed.notify_all();
        while state.order == Order::Pause {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held -= 1;
        if state.order == Order::End { Turn::End } else { Turn::EnterAfterPause }
    }

    /// Number of held threads, after waiting up to `patience` for it to exceed `known`.
    pub fn held(&self, known: usize, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.held > known || left.is_zero() {
                return state.held;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
