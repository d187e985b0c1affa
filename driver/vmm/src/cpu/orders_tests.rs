use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::orders::{Order, Orders, Turn};

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
