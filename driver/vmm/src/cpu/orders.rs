//! Orders of a machine's owner to its vCPU threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
        let waited = self.changed.wait_while(state, |state| state.order == Order::Pause);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.held -= 1;
        if state.order == Order::End { Turn::End } else { Turn::EnterAfterPause }
    }

    /// Number of held threads, after waiting up to `patience` for it to exceed `known`.
    pub fn held(&self, known: usize, patience: Duration) -> usize {
        let waited = self.changed.wait_timeout_while(self.state(), patience, |state| state.held <= known);
        waited.unwrap_or_else(PoisonError::into_inner).0.held
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn threads_are_held_until_the_next_order() {
        let orders = Arc::new(Orders::new());
        assert_eq!(orders.next(), Turn::Enter);
        for (order, turn) in [(Order::Run, Turn::EnterAfterPause), (Order::End, Turn::End)] {
            orders.give(Order::Pause);
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let orders = Arc::clone(&orders);
                    thread::spawn(move || orders.next())
                })
                .collect();
            assert_eq!(orders.held(1, LONG), 2);
            orders.give(order);
            threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), turn));
        }
    }

    #[test]
    fn the_end_is_final() {
        let orders = Orders::new();
        orders.give(Order::End);
        orders.give(Order::Run);
        assert_eq!(orders.next(), Turn::End);
    }

    #[test]
    fn waiting_for_threads_has_an_end() {
        assert_eq!(Orders::new().held(0, Duration::from_millis(1)), 0);
    }
}
