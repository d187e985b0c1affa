//! The order of pauses, kicks and ends, in every interleaving of the threads that there are.

use std::time::Duration;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread::{self, JoinHandle};

/// What `orders` is built on here.
mod sync {
    pub use loom::sync::atomic::AtomicBool;
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[allow(clippy::duplicate_mod, reason = "the same code, built on what the model can look into")]
#[path = "orders.rs"]
mod orders;

use orders::{Order, Orders, Turn};

const THREADS: usize = 2;
const LONG: Duration = Duration::from_secs(3600);

/// Threads that run a guest until they end, and the number of those that are in it.
struct Machine {
    orders: Arc<Orders>,
    inside: Arc<AtomicUsize>,
    /// What makes a thread leave the guest. A kick that comes early is not lost here: who kicks does so again and again.
    kicks: Vec<Arc<Notify>>,
    threads: Vec<JoinHandle<()>>,
}

impl Machine {
    fn start() -> Self {
        let (orders, inside) = (Arc::new(Orders::new()), Arc::new(AtomicUsize::new(0)));
        let kicks: Vec<_> = (0..THREADS).map(|_| Arc::new(Notify::new())).collect();
        let start = |kick: &Arc<Notify>| {
            let (orders, inside, kick) = (Arc::clone(&orders), Arc::clone(&inside), Arc::clone(kick));
            thread::spawn(move || {
                while orders.next() != Turn::End {
                    inside.fetch_add(1, Ordering::SeqCst);
                    kick.wait();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            })
        };
        let threads = kicks.iter().map(start).collect();
        Self { orders, inside, kicks, threads }
    }

    fn give(&self, order: Order) {
        self.orders.give(order);
        self.kicks.iter().for_each(|kick| kick.notify());
    }

    fn pause(&self) {
        self.give(Order::Pause);
        let mut held = 0;
        while held < THREADS {
            held = self.orders.held(held, LONG);
        }
    }

    fn end(self) {
        self.give(Order::End);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn in_every_order(steps: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(steps);
}

#[test]
fn nobody_is_in_the_guest_once_all_are_held() {
    in_every_order(|| {
        let machine = Machine::start();
        machine.pause();
        assert_eq!(machine.inside.load(Ordering::SeqCst), 0);
        machine.end();
    });
}

#[test]
fn all_end_whatever_was_ordered_before() {
    in_every_order(|| {
        let machine = Machine::start();
        machine.give(Order::Pause);
        machine.orders.give(Order::Run);
        machine.end();
    });
}
