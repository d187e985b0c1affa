//! What goes through a guest's interface, by the host's clock.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::guests::{Guest, Guests, Tap};
use crate::median;

const ROUNDS: usize = 10;
const MEBIBYTES: usize = 64;
const PIECE: usize = 64 * 1024;
const PORT: u16 = 5001;
/// No traffic for so long is none.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(runtime: &Runtime, guests: &Guests) {
    let sent = guests.compare(ROUNDS, |guest, tap| {
        let script = format!("dd if=/dev/zero bs=64k count=1024 2>/dev/null | nc {} {PORT}", tap.address());
        measure(runtime, guest, tap, &script, drain)
    });
    let received = guests.compare(ROUNDS, |guest, tap| {
        // What it reads from never ends, so that it goes on to read from the host.
        let script = format!("[ -p /f ] || mkfifo /f; nc {} {PORT} 0<>/f >/dev/null", tap.address());
        measure(runtime, guest, tap, &script, fill)
    });
    for (name, both) in [("TCP, sent", sent), ("TCP, received", received)] {
        let [ours, theirs] = both.map(median);
        println!("{name:16} {ours:8.1} {theirs:8.1} {:8.2}", ours / theirs);
    }
}

/// How fast the guest moves bytes over the connection that its script makes.
fn measure(
    runtime: &Runtime,
    guest: &Guest,
    tap: &Tap,
    script: &str,
    transfer: impl FnOnce(&mut TcpStream) + Send,
) -> f64 {
    let listener = TcpListener::bind((tap.address(), PORT)).unwrap();
    let took = std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            let (mut connection, _) = listener.accept().unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            connection.set_write_timeout(Some(PATIENCE)).unwrap();
            let began = Instant::now();
            transfer(&mut connection);
            began.elapsed()
        });
        runtime.block_on(guest.script(script));
        host.join().unwrap()
    });
    MEBIBYTES as f64 / took.as_secs_f64()
}

/// Takes all that the guest sends.
fn drain(connection: &mut TcpStream) {
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        match connection.read(&mut piece).unwrap() {
            0 => break,
            length => total += length,
        }
    }
    assert_eq!(total, MEBIBYTES << 20);
}

/// Sends, until the guest has taken all.
fn fill(connection: &mut TcpStream) {
    let piece = vec![0; PIECE];
    for _ in 0..(MEBIBYTES << 20) / PIECE {
        connection.write_all(&piece).unwrap();
    }
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
}
