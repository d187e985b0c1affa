//! The life of a container as its user sees it.

use cloud_tests::cloud::{BUSYBOX, in_cloud};
use cloud_tests::eventually;

const LONG: &str = "sleep 100000";

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn run_gives_a_running_container_with_its_address() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(&format!("ip address show; {LONG}"));
        let shown = cloud.show(&uuid);
        assert_eq!(shown["status"], "Running");
        assert!(shown["status_detail"].as_str().unwrap().starts_with("Up "), "{shown}");
        assert!(shown["host"].is_string(), "{shown}");
        let address = shown["addresses"].as_str().unwrap();
        let of_port = format!(
            "SELECT ip_address, status FROM neutron.ports JOIN neutron.ipallocations ON id = port_id WHERE device_id = '{uuid}'"
        );
        assert_eq!(cloud.sql(&of_port), format!("{address}\tACTIVE"));
        eventually(30, "the address is in the log", || {
            let log = cloud.openstack(&["appcontainer", "logs", &uuid]).ok();
            if log.contains(&format!("inet {address}/")) { Ok(()) } else { Err(log) }
        });
        let actions = cloud.openstack(&["appcontainer", "action", "list", &uuid, "-f", "value"]).ok();
        assert!(actions.contains("create"), "{actions}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn exec_gives_output_and_exit_code() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox(LONG);
        let exec = |arguments: &[&str]| {
            cloud.openstack(&[&["appcontainer", "exec", uuid.as_str()], arguments].concat())
        };
        let said = exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(said.status, 7, "{said:?}");
        assert!(said.out.contains("out") && said.out.contains("err"), "{said:?}");
        assert_eq!(exec(&["true"]).status, 0);
        let missing = exec(&["no-such-program"]);
        assert_eq!(missing.status, 127, "{missing:?}");
        assert!(format!("{missing:?}").contains("no-such-program"), "{missing:?}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn logs_tell_output_from_errors() {
    in_cloud(|cloud| {
        let uuid = cloud.make(
            "run",
            &[&BUSYBOX[..], &["busybox", "sh", "-c", "echo to-out; echo to-err >&2; echo last; exit 3"]]
                .concat(),
        );
        cloud.wait_for_status(&uuid, "Stopped");
        let logs = |options: &[&str]| {
            cloud.openstack(&[&["appcontainer", "logs", uuid.as_str()], options].concat()).ok()
        };
        let all = logs(&[]);
        assert!(["to-out", "to-err", "last"].iter().all(|line| all.contains(line)), "{all}");
        let errors = logs(&["--stderr"]);
        assert!(errors.contains("to-err") && !errors.contains("to-out"), "{errors}");
        // Output and errors are two pipes, which have no order between them.
        let tail = logs(&["--stdout", "--tail", "1"]);
        assert_eq!(tail.trim(), "last");
        assert!(logs(&["--timestamps"]).starts_with("20"), "each line begins with its time");
        let shown = cloud.show(&uuid);
        assert!(shown["status_detail"].as_str().unwrap().starts_with("Exited(3)"), "{shown}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn create_start_stop_start_reboot_kill_delete() {
    in_cloud(|cloud| {
        let command = "trap 'echo stopping; exit 0' TERM; echo begun >>/begun; wc -l </begun; while :; do sleep 0.1; done";
        let uuid = cloud.make("create", &[&BUSYBOX[..], &["busybox", "sh", "-c", command]].concat());
        cloud.wait_for_status(&uuid, "Created");
        let act = |verb: &str, options: &[&str], wanted: &str| {
            cloud.openstack(&[&["appcontainer", verb], options, &[uuid.as_str()]].concat()).ok();
            cloud.wait_for_status(&uuid, wanted);
        };
        act("start", &[], "Running");
        act("stop", &["--timeout", "20"], "Stopped");
        let log = cloud.openstack(&["appcontainer", "logs", &uuid]).ok();
        assert!(log.contains("stopping"), "its process was asked first: {log}");
        act("start", &[], "Running");
        act("restart", &["--timeout", "20"], "Running");
        eventually(60, "what was written is there after each start", || {
            let count = cloud.openstack(&["appcontainer", "exec", &uuid, "wc", "-l", "/begun"]);
            if count.out.trim().starts_with('3') { Ok(()) } else { Err(format!("{count:?}")) }
        });
        act("kill", &["--signal", "KILL"], "Stopped");
        let shown = cloud.show(&uuid);
        assert!(shown["status_detail"].as_str().unwrap().starts_with("Exited(137)"), "{shown}");
        cloud.openstack(&["appcontainer", "delete", &uuid]).ok();
        cloud.wait_until_gone(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_container_is_limited_and_confined() {
    in_cloud(|cloud| {
        let uuid = cloud.make(
            "run",
            &[
                "--cpu",
                "0.5",
                "--memory",
                "96",
                "--net",
                "network=net",
                "--hostname",
                "web",
                "--environment",
                "COLOUR=blue",
                "--workdir",
                "/var",
                "--image-pull-policy",
                "ifnotpresent",
                "busybox",
                "sleep",
                "100000",
            ],
        );
        cloud.wait_for_status(&uuid, "Running");
        let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.weight; hostname; echo $COLOUR; pwd; \
            ps | wc -l; touch /proc/sys/kernel/hostname 2>&1; grep nameserver /etc/resolv.conf; mknod /tmp/x c 1 1 2>&1";
        let said = cloud.openstack(&["appcontainer", "exec", &uuid, "sh", "-c", script]).out;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], ["100663296", "max 100000"], "half a CPU is a weight, and no bound: {said}");
        assert!(lines[2].parse::<u32>().unwrap() < 100, "it is less than a whole one has: {said}");
        assert_eq!(lines[3..6], ["web", "blue", "/var"], "{said}");
        assert!(lines[6].trim().parse::<u32>().unwrap() < 8, "it sees its own processes only: {said}");
        assert!(said.contains("hostname: Read-only file system"), "{said}");
        assert!(said.contains("nameserver 10.77.0.2"), "{said}");
        assert!(said.contains("Operation not permitted"), "{said}");
        cloud.delete(&uuid);
    });
}

#[test]
#[ignore = "needs the cloud of devstack/up; tests/run brings it up"]
fn a_paused_container_stands_still_and_goes_on() {
    in_cloud(|cloud| {
        let uuid = cloud.run_busybox("i=0; while :; do echo $((i += 1)); sleep 0.2; done");
        let lines = || cloud.openstack(&["appcontainer", "logs", &uuid]).ok().lines().count();
        cloud.openstack(&["appcontainer", "pause", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Paused");
        let shown = cloud.show(&uuid);
        assert!(shown["status_detail"].as_str().unwrap().ends_with("(paused)"), "{shown}");
        assert_eq!(lines(), lines(), "a paused container writes nothing");
        let exec = cloud.openstack(&["appcontainer", "exec", &uuid, "true"]);
        assert!(exec.status != 0, "{exec:?}");
        // What needs its guest lets it go on for a moment.
        let folder = tempfile::tempdir().unwrap();
        let (there, here) = (format!("{uuid}:/etc/hostname"), folder.path().to_str().unwrap());
        cloud.openstack(&["appcontainer", "cp", &there, here]).ok();
        let name = std::fs::read_to_string(folder.path().join("hostname")).unwrap();
        assert!(!name.trim().is_empty());
        cloud.openstack(&["appcontainer", "set", "--memory", "192", &uuid]).ok();
        let shown = cloud.show(&uuid);
        assert_eq!((&shown["status"], &shown["memory"]), (&"Paused".into(), &"192".into()), "{shown}");
        assert_eq!(lines(), lines(), "it stands still again");
        cloud.openstack(&["appcontainer", "unpause", &uuid]).ok();
        cloud.wait_for_status(&uuid, "Running");
        let before = lines();
        eventually(30, "it goes on", || if lines() > before { Ok(()) } else { Err(before.to_string()) });
        cloud.delete(&uuid);
    });
}
