//! How often the service asks the database for one `run`, counted on a line between both that the test holds.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloud_tests::cloud::Cloud;
use cloud_tests::eventually;

use crate::stalled::PORT;
use crate::{serving, spread};

const ROUNDS: usize = 5;
const DATABASE: (&str, u16) = ("127.0.0.1", 3306);
/// For so long nobody has asked anything where what was begun is over.
const QUIET: Duration = Duration::from_secs(3);

// Commands of MariaDB's protocol. The first two are not answered.
const QUIT: u8 = 0x01;
const CLOSE: u8 = 0x19;
const PING: u8 = 0x0e;
const PREPARE: u8 = 0x16;

/// `running` is a container that runs all the while.
pub fn run(cloud: &Cloud, running: &str) {
    let line = Line::open();
    let detour = Detour::make(cloud, running);
    // What the first asks for is prepared on each connection.
    let rounds: Vec<Vec<u8>> = (0..=ROUNDS).map(|_| asked_for_a_run(cloud, &line)).skip(1).collect();
    drop(detour);
    println!("Database round trips of one run, {ROUNDS} runs");
    println!("{:<28} {:>8} {:>8} {:>8}", "", "median", "least", "most");
    print_row("all, goal 6", &rounds, |_| true);
    print_row("of these, pings", &rounds, |command| command == PING);
    print_row("of these, preparations", &rounds, |command| command == PREPARE);
}

fn print_row(name: &str, rounds: &[Vec<u8>], counts: impl Fn(u8) -> bool) {
    let count = |round: &Vec<u8>| round.iter().filter(|command| counts(**command)).count() as f64;
    let [median, least, most] = spread(rounds.iter().map(count).collect());
    println!("{name:<28} {median:8.0} {least:8.0} {most:8.0}");
}

/// The commands that the service sent, from the message until it had nothing more to write.
fn asked_for_a_run(cloud: &Cloud, line: &Line) -> Vec<u8> {
    line.wait_until_quiet();
    line.take();
    let uuid = cloud.run_busybox("sleep 100000");
    line.wait_until_quiet();
    let commands = line.take();
    cloud.delete(&uuid);
    commands
}

/// The service reaches the database through the line, and does hardly anything from time to time. Both end with this.
struct Detour<'a>(&'a Cloud);

/// The compute host's own configuration, and what it was.
const CONFIGURATION: &str = ".cache/devstack/etc/host-$(hostname)/zun-kata.conf";
const KEPT: &str = "/tmp/zun-kata.conf";

impl<'a> Detour<'a> {
    fn make(cloud: &'a Cloud, running: &str) -> Self {
        cloud.shell(&format!("cp {CONFIGURATION} {KEPT}"));
        let detour = Self(cloud);
        cloud.shell(&format!(
            r"file={CONFIGURATION}
            sed -i -E 's/^(sync_container_state_interval|periodic_interval_max) = .*/\1 = 100000/' $file
            echo '[database]' >>$file
            sed -n 's/^\(connection = .*\):3306/\1:{PORT}/p' .cache/devstack/etc/zun/zun.conf >>$file"
        ));
        cloud.shell(serving::END);
        serving::start(cloud, running);
        detour
    }
}

impl Drop for Detour<'_> {
    fn drop(&mut self) {
        let script = format!("cp {KEPT} {CONFIGURATION}; {}; devstack/host start", serving::END);
        self.0.on_host(&["bash", "-c", &script]);
    }
}

/// A way to the database on which commands are counted. It ends with its owner.
struct Line {
    commands: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
}

impl Line {
    fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let (commands, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, is_over) = (Arc::clone(&commands), Arc::clone(&ended));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                pass(client, &seen);
            }
        });
        Self { commands, ended }
    }

    fn count(&self) -> usize {
        self.commands.lock().unwrap().len()
    }

    /// The commands since this was last called.
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.commands.lock().unwrap())
    }

    fn wait_until_quiet(&self) {
        let mut last = (self.count(), Instant::now());
        eventually(120, "the service asks the database nothing", || {
            let count = self.count();
            if count != last.0 {
                last = (count, Instant::now());
            }
            if last.1.elapsed() >= QUIET { Ok(()) } else { Err(format!("{count} commands")) }
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // One more client lets it see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", PORT));
    }
}

fn pass(client: TcpStream, commands: &Arc<Mutex<Vec<u8>>>) {
    let server = TcpStream::connect(DATABASE).unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let commands = Arc::clone(commands);
    thread::spawn(move || pass_commands(client, server, &commands));
    thread::spawn(move || {
        // Whoever goes first ends it.
        let _ = io::copy(&mut answers, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
}

fn pass_commands(client: TcpStream, mut server: TcpStream, commands: &Mutex<Vec<u8>>) {
    let mut client = BufReader::new(client);
    while let Ok(packet) = packet(&mut client) {
        // The first packet of an exchange begins with its command. In the server's greeting the client's is a later one.
        if packet[3] == 0
            && let Some(command) = packet.get(4).filter(|command| ![QUIT, CLOSE].contains(*command))
        {
            commands.lock().unwrap().push(*command);
        }
        if server.write_all(&packet).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

/// A packet: three bytes of length, its number in the exchange, what it says.
fn packet(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet)?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    packet.resize(4 + length, 0);
    from.read_exact(&mut packet[4..])?;
    Ok(packet)
}
