//! What goes through a guest's interface, by the host's clock.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::guests::{Guest, Guests, Tap};
use crate::median;

const ROUNDS: usize = 10;
const BYTES: usize = 32 << 20;
const PIECE: usize = 64 * 1024;
const PORT: u16 = 5001;
/// No traffic for so long is none.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(runtime: &Runtime, guests: &Guests) {
    let serve = format!(
        "mkdir -p /dev/shm && dd if=/dev/zero of=/dev/shm/x bs=1M count={} && httpd -p {PORT} -h /dev/shm",
        BYTES >> 20
    );
    guests.each(|guest| runtime.block_on(guest.script(&serve)));
    let sent = guests.compare(ROUNDS, |_, tap| fetch(tap));
    let received = guests.compare(ROUNDS, |guest, tap| {
        let script = format!("wget -q -O /dev/null http://{}:{PORT}/", tap.address());
        serve_once(runtime, guest, tap, &script)
    });
    let round_trip = guests.compare(ROUNDS, |_, tap| round_trip(tap));
    let rows = [
        ("TCP, sent", sent, "at least 0.95"),
        ("TCP, received", received, "at least 0.95"),
        ("round trip, us", round_trip, "at most 1.05"),
    ];
    for (name, both, goal) in rows {
        let [ours, theirs] = both.map(median);
        println!("{name:16} {ours:8.1} {theirs:8.1} {:8.2}   goal {goal}", ours / theirs);
    }
}

/// Microseconds that an echo takes from this namespace to the guest and back, the mean of many.
fn round_trip(tap: &Tap) -> f64 {
    let ping = Command::new("busybox")
        .args(["ping", "-q", "-c", "100", "-i", "0.01", "-W", "10", &tap.guest_address()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ping.stdout);
    let mean =
        said.split_once("min/avg/max = ").and_then(|(_, times)| times.split('/').nth(1)?.parse::<f64>().ok());
    mean.unwrap_or_else(|| panic!("no round trip: {said}")) * 1000.0
}

/// How fast the guest sends its file.
fn fetch(tap: &Tap) -> f64 {
    let mut connection = bounded(TcpStream::connect((tap.guest_address(), PORT)).unwrap());
    let began = Instant::now();
    connection.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
    let (mut piece, mut total) = (vec![0; PIECE], 0);
    loop {
        match connection.read(&mut piece).unwrap() {
            0 => break,
            length => total += length,
        }
    }
    assert!(total > BYTES, "the guest sent {total} bytes");
    mebibytes_a_second(began)
}

/// How fast the guest takes a file that its script asks for.
fn serve_once(runtime: &Runtime, guest: &Guest, tap: &Tap, script: &str) -> f64 {
    let listener = TcpListener::bind((tap.address(), PORT)).unwrap();
    std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            let mut connection = bounded(listener.accept().unwrap().0);
            assert_ne!(connection.read(&mut vec![0; PIECE]).unwrap(), 0);
            let began = Instant::now();
            let header = format!("HTTP/1.0 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
            connection.write_all(header.as_bytes()).unwrap();
            let piece = vec![0; PIECE];
            for _ in 0..BYTES / PIECE {
                connection.write_all(&piece).unwrap();
            }
            connection.shutdown(Shutdown::Write).unwrap();
            // It closes its end when it has all.
            assert_eq!(connection.read(&mut [0]).unwrap(), 0);
            mebibytes_a_second(began)
        });
        runtime.block_on(guest.script(script));
        host.join().unwrap()
    })
}

fn bounded(connection: TcpStream) -> TcpStream {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.set_write_timeout(Some(PATIENCE)).unwrap();
    connection
}

fn mebibytes_a_second(began: Instant) -> f64 {
    (BYTES >> 20) as f64 / began.elapsed().as_secs_f64()
}
