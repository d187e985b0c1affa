//! A slow line to a server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Between two pieces of an answer.
const PAUSE: Duration = Duration::from_millis(50);

/// A way to a server on which answers come slowly. It ends with its owner, in the middle of an answer if need be.
pub struct Throttled {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Throttled {
    /// Listens on a port of loopback; of each answer it passes on so many bytes a second.
    pub fn start(port: u16, server: &str, bytes_a_second: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (is_over, server) = (Arc::clone(&ended), server.to_owned());
        let piece = bytes_a_second * usize::try_from(PAUSE.as_millis()).unwrap() / 1000;
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                pass(client, &server, piece, Arc::clone(&is_over));
            }
        });
        Self { port, ended }
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // One more client lets it see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(client: TcpStream, server: &str, piece: usize, is_over: Arc<AtomicBool>) {
    let server = TcpStream::connect(server).unwrap();
    let (mut questions, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut questions, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    thread::spawn(move || {
        let (mut answers, mut to_client) = (server, client);
        let mut buffer = vec![0; piece];
        while let Ok(length @ 1..) = answers.read(&mut buffer) {
            if is_over.load(Ordering::SeqCst) {
                break;
            }
            if to_client.write_all(&buffer[..length]).is_err() {
                return;
            }
            thread::sleep(PAUSE);
        }
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
}
