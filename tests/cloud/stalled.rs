//! A tenant's operations that do not come to an end: stops of containers that ignore them, and pulls from a registry that
//! says nothing. The benchmark includes this file, too.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use cloud_tests::cloud::{BUSYBOX, Cloud, STUBBORN};
use cloud_tests::eventually;

/// The port that devstack lets a compute host reach for tests.
pub const PORT: u16 = 5002;

const CONTAINERS: usize = 7;
/// At most 16 may wait for one container; those of all are more than a hundred.
const STOPS_EACH: usize = 15;
const PULLS: usize = 3;
/// Seconds for which each stop waits: longer than any test.
const GRACE: &str = "1000000";

/// Containers that ignore a stop. Nothing is asked of them yet.
pub struct Stubborn<'a> {
    cloud: &'a Cloud,
    uuids: Vec<String>,
}

impl<'a> Stubborn<'a> {
    /// Runs them.
    pub fn run(cloud: &'a Cloud) -> Self {
        let words = [&BUSYBOX[..], &["busybox", "sh", "-c", STUBBORN]].concat();
        let uuids: Vec<String> = (0..CONTAINERS).map(|_| cloud.make("run", &words)).collect();
        uuids.iter().for_each(|uuid| cloud.wait_for_status(uuid, "Running"));
        Self { cloud, uuids }
    }

    /// Asks each to stop, over and over, and runs images of the silent registry.
    pub fn stall(self) -> Stalled<'a> {
        let Self { cloud, uuids } = self;
        let tarpit = Tarpit::open();
        let pull = |number: usize| {
            let image = format!("127.0.0.1:{PORT}/tarpit-{number}");
            cloud.make("run", &[&BUSYBOX[..], &[&image, "true"]].concat())
        };
        let pulls: Vec<String> = (0..PULLS).map(pull).collect();
        for _ in 0..STOPS_EACH {
            let said = command(cloud, &["stop", "--timeout", GRACE], &uuids);
            assert_eq!(said.matches("has been accepted").count(), uuids.len(), "{said}");
        }
        eventually(60, "a pull has come to the registry", || {
            if tarpit.visitors.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("nobody has".into()) }
        });
        Stalled { cloud, uuids, pulls, tarpit }
    }
}

/// What does not come to an end.
pub struct Stalled<'a> {
    cloud: &'a Cloud,
    uuids: Vec<String>,
    pulls: Vec<String>,
    tarpit: Tarpit,
}

impl Stalled<'_> {
    /// Stops that have neither been done nor refused.
    pub fn waiting(&self) -> usize {
        let query = format!(
            "SELECT COUNT(*) FROM zun.container_actions WHERE action = 'stop' AND finish_time IS NULL \
             AND container_uuid IN ('{}')",
            self.uuids.join("', '")
        );
        self.cloud.sql(&query).parse().unwrap()
    }

    /// Kills what is waited for, which cuts the grace periods short; the registry goes, and all containers are deleted.
    pub fn end(self) {
        command(self.cloud, &["kill"], &self.uuids);
        self.uuids.iter().for_each(|uuid| self.cloud.wait_for_status(uuid, "Stopped"));
        eventually(60, "no stop waits", || match self.waiting() {
            0 => Ok(()),
            count => Err(format!("{count} do")),
        });
        let Self { cloud, uuids, pulls, tarpit } = self;
        drop(tarpit);
        for uuid in &pulls {
            cloud.wait_for_error(uuid);
        }
        let all = [uuids, pulls].concat();
        command(cloud, &["delete", "--force"], &all);
        all.iter().for_each(|uuid| cloud.wait_until_gone(uuid));
    }
}

/// One command of `openstack appcontainer` for several containers.
fn command(cloud: &Cloud, words: &[&str], uuids: &[String]) -> String {
    let uuids: Vec<&str> = uuids.iter().map(String::as_str).collect();
    cloud.openstack(&[&["appcontainer"], words, &uuids[..]].concat()).ok()
}

/// A registry that takes connections and says nothing. They end with it.
struct Tarpit {
    visitors: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Tarpit {
    fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let (visitors, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (come, is_over) = (Arc::clone(&visitors), Arc::clone(&ended));
        thread::spawn(move || {
            let mut held = Vec::new();
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                held.push(client);
                come.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { visitors, ended }
    }
}

impl Drop for Tarpit {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // One more client lets it see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", PORT));
    }
}
