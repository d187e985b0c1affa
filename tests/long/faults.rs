//! What a container's row says, and what there is of it, where a write fails: the service dies, or loses its connection to the
//! database, at each write that an operation makes to the row.

use cloud_tests::cloud::{BUSYBOX, Cloud, in_cloud};
use cloud_tests::eventually;
use cloud_tests::killed::Killed;

/// Containers of this name have their writes counted.
const NAME: &str = "written-to";
/// Writes of one operation, at most: one that makes more would be cut short by this test.
const WRITES_MAX: u32 = 20;

/// The writes with which operations on a container of this name begin and end, and one of them that is held back until its
/// connection is killed. Zun's API writes rows too, without a task.
struct Writes<'a>(&'a Cloud);

impl<'a> Writes<'a> {
    fn count(cloud: &'a Cloud) -> Self {
        cloud.sql("CREATE DATABASE IF NOT EXISTS faults");
        cloud.sql("CREATE OR REPLACE TABLE faults.writes (number INT, held INT)");
        cloud.sql("INSERT INTO faults.writes VALUES (0, 0)");
        cloud.sql(&format!(
            "CREATE OR REPLACE TRIGGER zun.held BEFORE UPDATE ON zun.container FOR EACH ROW
             UPDATE faults.writes SET number = number + 1, held = held + IF(number = held, SLEEP(60), 0)
             WHERE NEW.name = '{NAME}' AND COALESCE(OLD.task_state, NEW.task_state) IS NOT NULL"
        ));
        Self(cloud)
    }

    /// Holds back the write of this number, counted from now.
    fn hold(&self, number: u32) {
        self.0.sql(&format!("UPDATE faults.writes SET number = 0, held = {number}"));
    }

    /// Holds back none.
    fn hold_none(&self) {
        self.hold(0);
    }

    /// The connection whose write is held back.
    fn held(&self) -> Option<String> {
        let query = "SELECT id FROM information_schema.processlist WHERE state = 'User sleep'";
        Some(self.0.sql(query)).filter(|id| !id.is_empty())
    }

    /// Ends the connection whose write is held back: nothing is written. It is not held back again.
    fn lose(&self, connection: &str) {
        self.0.sql(&format!("KILL {connection}; UPDATE faults.writes SET held = 0"));
        eventually(30, "the write has failed", || self.held().map_or(Ok(()), Err));
    }
}

impl Drop for Writes<'_> {
    fn drop(&mut self) {
        self.0.sql("DROP TRIGGER IF EXISTS zun.held");
        self.0.sql("DROP DATABASE IF EXISTS faults");
    }
}

/// An operation, the status that it begins with, and the one to which it leads.
struct Operation {
    words: &'static [&'static str],
    from: &'static str,
    to: &'static str,
}

const OPERATIONS: [Operation; 7] = [
    Operation { words: &["start"], from: "Stopped", to: "Running" },
    Operation { words: &["stop", "--timeout", "1"], from: "Running", to: "Stopped" },
    Operation { words: &["kill"], from: "Running", to: "Stopped" },
    Operation { words: &["restart", "--timeout", "1"], from: "Running", to: "Running" },
    Operation { words: &["pause"], from: "Running", to: "Paused" },
    Operation { words: &["unpause"], from: "Paused", to: "Running" },
    Operation { words: &["rebuild"], from: "Running", to: "Running" },
];

fn run(cloud: &Cloud) -> String {
    let words = ["--name", NAME, "busybox", "sleep", "100000"];
    cloud.make("run", &[&BUSYBOX[..], &words].concat())
}

fn wait_until_settled(cloud: &Cloud, uuid: &str) -> String {
    eventually(180, &format!("{uuid} is settled"), || cloud.settled(uuid))
}

/// Asks for something. What is given tells whether that has come to its end.
fn ask<'a>(cloud: &'a Cloud, words: &[&str], uuid: &'a str) -> impl Fn() -> bool + 'a {
    let before =
        cloud.sql(&format!("SELECT MAX(id) FROM zun.container_actions WHERE container_uuid = '{uuid}'"));
    cloud.openstack(&[&["appcontainer"], words, &[uuid]].concat()).ok();
    has_ended(cloud, uuid, before)
}

/// Whether an action after the one of this number has come to its end.
fn has_ended<'a>(cloud: &'a Cloud, uuid: &'a str, before: String) -> impl Fn() -> bool + 'a {
    move || {
        let after = format!("container_uuid = '{uuid}' AND id > {before}");
        cloud.sql(&format!("SELECT finish_time IS NOT NULL FROM zun.container_actions WHERE {after}")) == "1"
    }
}

/// Brings the container to a status by what its user would do.
fn bring(cloud: &Cloud, uuid: &str, wanted: &str) {
    for _ in 0..3 {
        let now = wait_until_settled(cloud, uuid);
        let verb: &[&str] = match (now.as_str(), wanted) {
            _ if now == wanted => return,
            ("Paused", _) => &["unpause"],
            ("Running", "Paused") => &["pause"],
            ("Running", _) => &["kill"],
            _ => &["start"],
        };
        let has_ended = ask(cloud, verb, uuid);
        eventually(120, &format!("{verb:?} has ended"), || {
            if has_ended() { Ok(()) } else { Err(String::new()) }
        });
    }
    assert_eq!(wait_until_settled(cloud, uuid), wanted, "{uuid}");
}

/// What is running answers, what is not has no process, and nothing is shown as if it were under way.
fn assert_consistent(cloud: &Cloud, uuid: &str, status: &str, what: &str) {
    let open = format!("FROM zun.container_actions WHERE container_uuid = '{uuid}' AND finish_time IS NULL");
    eventually(60, &format!("{what}: its actions have ended"), || {
        let open = cloud.sql(&format!("SELECT action {open}"));
        if open.is_empty() { Ok(()) } else { Err(open) }
    });
    let lives = matches!(status, "Running" | "Paused");
    assert_eq!(cloud.shims_of(uuid), usize::from(lives), "{what}: {status}");
    if status == "Running" {
        assert_eq!(cloud.openstack(&["appcontainer", "exec", uuid, "true"]).status, 0, "{what}");
    }
}

/// Waits until a write is held back, and gives its connection; none if `is_over` says that there was none.
fn wait_until_held(writes: &Writes<'_>, is_over: impl Fn() -> bool) -> Option<String> {
    eventually(120, "a write is held back, or there is none", || match writes.held() {
        Some(connection) => Ok(Some(connection)),
        None if is_over() => Ok(writes.held()),
        None => Err(String::new()),
    })
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn the_service_dies_at_any_write() {
    in_cloud(|cloud| {
        let writes = Writes::count(cloud);
        for number in 1..=WRITES_MAX {
            writes.hold(number);
            let uuid = run(cloud);
            let Some(connection) = wait_until_held(&writes, has_ended(cloud, &uuid, "0".into())) else {
                assert!(number > 2, "a creation writes to its row");
                writes.hold_none();
                interrupt_each(cloud, &writes, &uuid);
                cloud.delete(&uuid);
                break;
            };
            die(cloud, &writes, &connection);
            let status = wait_until_settled(cloud, &uuid);
            // What had not come so far as to be this host's has no event that could end.
            if number > 1 {
                assert_consistent(cloud, &uuid, &status, &format!("write {number} of a creation"));
            } else {
                assert_eq!(status, "Error", "{uuid}");
            }
            cloud.delete(&uuid);
        }
        for number in 1..=WRITES_MAX {
            let uuid = run(cloud);
            cloud.wait_for_status(&uuid, "Running");
            writes.hold(number);
            cloud.openstack(&["appcontainer", "delete", "--force", &uuid]).ok();
            let is_gone = || cloud.settled(&uuid).is_ok_and(|status| status == "gone");
            let Some(connection) = wait_until_held(&writes, is_gone) else {
                assert!(number > 1, "a deletion writes to its row");
                break;
            };
            die(cloud, &writes, &connection);
            match wait_until_settled(cloud, &uuid).as_str() {
                "gone" => {}
                // It had not begun.
                "Running" if number == 1 => cloud.delete(&uuid),
                status => panic!("{uuid}: {status}, write {number} of its deletion"),
            }
        }
    });
}

/// The service dies while a write is held back, and is started again.
fn die(cloud: &Cloud, writes: &Writes<'_>, connection: &str) {
    let killed = Killed::now(cloud);
    writes.lose(connection);
    writes.hold_none();
    killed.revive();
}

fn interrupt_each(cloud: &Cloud, writes: &Writes<'_>, uuid: &str) {
    for Operation { words, from, to } in OPERATIONS {
        for number in 1..=WRITES_MAX {
            bring(cloud, uuid, from);
            writes.hold(number);
            let has_ended = ask(cloud, words, uuid);
            let Some(connection) = wait_until_held(writes, has_ended) else {
                assert!(number > 2, "{words:?} writes when it begins and when it ends");
                break;
            };
            die(cloud, writes, &connection);
            let status = wait_until_settled(cloud, uuid);
            // One that had not begun is lost with the service; one that had is done.
            let is_right = status == to || (number == 1 && status == from);
            assert!(is_right, "{words:?}, write {number}: {status}");
            assert_consistent(cloud, uuid, &status, &format!("write {number} of {words:?}"));
        }
        writes.hold_none();
    }
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_connection_is_lost_at_any_write() {
    in_cloud(|cloud| {
        let writes = Writes::count(cloud);
        let uuid = run(cloud);
        cloud.wait_for_status(&uuid, "Running");
        for Operation { words, from, to } in OPERATIONS {
            for number in 1..=WRITES_MAX {
                bring(cloud, &uuid, from);
                writes.hold(number);
                let has_ended = ask(cloud, words, &uuid);
                let Some(connection) = wait_until_held(&writes, &has_ended) else {
                    assert!(number > 2, "{words:?} writes when it begins and when it ends");
                    break;
                };
                writes.lose(&connection);
                eventually(120, &format!("{words:?} has ended"), || {
                    if has_ended() { Ok(()) } else { Err(String::new()) }
                });
                let status = wait_until_settled(cloud, &uuid);
                assert_eq!(status, to, "{words:?}, write {number}");
                assert_consistent(cloud, &uuid, &status, &format!("write {number} of {words:?}"));
            }
            writes.hold_none();
        }
        cloud.delete(&uuid);
    });
}

/// The service dies once the first of two ports has the group that both are given.
#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_change_of_groups_that_was_half_done_is_taken_back() {
    in_cloud(|cloud| {
        let second = cloud.network("10.79.0.0/24");
        let uuid = run(cloud);
        cloud.wait_for_status(&uuid, "Running");
        cloud.openstack(&["appcontainer", "network", "attach", "--network", &second.name, &uuid]).ok();
        eventually(60, "it has two ports", || {
            let is_attached =
                cloud.show(&uuid)["addresses"].as_str().is_some_and(|all| all.contains("10.79.0."));
            if is_attached { Ok(()) } else { Err(String::new()) }
        });
        let made = cloud.openstack(&["security", "group", "create", "half", "-f", "value", "-c", "id"]).ok();
        let (group, ports) = (made.trim(), cloud.ports_of(&uuid));
        let groups = |port: &str| {
            cloud.sql(&format!(
                "SELECT security_group_id FROM neutron.securitygroupportbindings WHERE port_id = '{port}' ORDER BY 1"
            ))
        };
        let before: Vec<String> = ports.iter().map(|port| groups(port)).collect();
        let regrouping: Vec<String> = ports
            .iter()
            .zip(&before)
            .map(|(port, groups)| format!("{port:?}: {:?}", groups.lines().collect::<Vec<_>>()))
            .collect();

        let killed = Killed::now(cloud);
        cloud.openstack(&["port", "set", "--security-group", group, &ports[0]]).ok();
        let script = format!(
            "import json; path = '/var/lib/zun-kata/sandboxes/{uuid}/record.json'; record = json.load(open(path)); \
             record.update(regrouping={{{}}}, regrouped=['{group}']); json.dump(record, open(path, 'w'))",
            regrouping.join(", ")
        );
        cloud.on_host(&["python3", "-c", &script]).ok();
        cloud.sql(&format!("UPDATE zun.container SET task_state = 'sg_adding' WHERE uuid = '{uuid}'"));
        assert_ne!(groups(&ports[0]), before[0]);
        killed.revive();
        cloud.wait_for_status(&uuid, "Running");
        for (port, before) in ports.iter().zip(&before) {
            assert_eq!(&groups(port), before);
        }
        cloud.delete(&uuid);
        cloud.openstack(&["security", "group", "delete", group]).ok();
    });
}
