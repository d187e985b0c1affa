//! The OCI runtime specification, as far as a container in a guest has a use for it.

use cloud_tests::eventually;
use sandbox::{ContainerSpec, Sandbox};
use serde_json::{Value, json};

use crate::fixture::{self, Fixture};
use crate::query;

const LONG: [&str; 2] = ["sleep", "100000"];

async fn output(sandbox: &Sandbox, script: &str) -> String {
    fixture::output(sandbox, "c", script).await
}

/// The container's log, once it holds `last`.
fn log_with(sandbox: &Sandbox, last: &str) -> String {
    eventually(30, last, || {
        let log = sandbox.logs("c", &query()).unwrap();
        if log.contains(last) { Ok(log) } else { Err(log) }
    })
}

/// A container whose specification has this instead of what it would have.
async fn run(fixture: &Fixture, sandbox: &Sandbox, words: &[&str], oci: Value) {
    sandbox.make_disk("c", 1).await.unwrap();
    let container = ContainerSpec { oci, ..fixture.container("c", words) };
    sandbox.run(&container).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_system_call_that_is_forbidden_fails_as_the_list_says() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
            { "names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS" },
        ],
    });
    let script = "mkdir /x; hostname x; echo status $?; grep Seccomp: /proc/self/status; exec sleep 100000";
    run(&fixture, &sandbox, &["sh", "-c", script], json!({ "linux": { "seccomp": seccomp } })).await;
    let log = log_with(&sandbox, "Seccomp:\t2");
    assert!(log.contains("not supported") && log.contains("status 159"), "{log}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn hooks_run_at_their_times() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    // What runs outside the container finds a program only in the container's own files.
    let root = "/run/kata-containers/containers/c/rootfs";
    let outside = |name: &str| {
        let script = format!("cat >{root}/{name}");
        json!([{ "path": format!("{root}/bin/sh"), "args": ["sh", "-c", script], "env": [format!("PATH={root}/bin")] }])
    };
    let inside = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "cat >/start"], "env": ["PATH=/bin"] }]);
    let hooks = json!({
        "createRuntime": outside("runtime"),
        "prestart": outside("prestart"),
        "createContainer": outside("create"),
        "startContainer": inside,
        "poststart": outside("poststart"),
    });
    run(&fixture, &sandbox, &LONG, json!({ "hooks": hooks })).await;
    for (name, status) in [
        ("runtime", "creat"),
        ("prestart", "creat"),
        ("create", "creat"),
        ("start", "creat"),
        ("poststart", "running"),
    ] {
        let state = output(&sandbox, &format!("cat /{name}")).await;
        let state: Value = serde_json::from_str(&state).unwrap_or_else(|e| panic!("{name}: {state:?}: {e}"));
        assert_eq!(state["id"], "c", "{name}");
        assert!(state["status"].as_str().unwrap().starts_with(status), "{name}: {state}");
    }
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_hook_that_fails_fails_the_container_and_no_more() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    sandbox.make_disk("c", 1).await.unwrap();
    let hooks = json!({ "createContainer": [{ "path": "/no/such/program" }] });
    let container = ContainerSpec { oci: json!({ "hooks": hooks }), ..fixture.container("c", &LONG) };
    let error = sandbox.run(&container).await.unwrap_err().to_string();
    assert!(error.contains("hook"), "{error}");
    sandbox.run(&fixture.container("c", &LONG)).await.unwrap();
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_container_has_what_its_specification_says() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let capabilities = json!({ "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"],
        "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"] });
    let oci = json!({
        "process": {
            "capabilities": capabilities,
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 1, "hard": 2 }],
            "noNewPrivileges": true,
            "oomScoreAdj": 321,
        },
        "root": { "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"] },
        ],
        "linux": {
            "sysctl": { "net.ipv4.ip_forward": "1", "kernel.msgmax": "4096" },
            "maskedPaths": ["/proc/cpuinfo"],
            "readonlyPaths": ["/proc/sys/net"],
            "devices": [{ "path": "/dev/nothing", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 33, "gid": 4 }],
            "resources": { "pids": { "limit": 20 }, "cpu": { "shares": 512 }, "memory": { "reservation": 1 << 20 } },
            "rootfsPropagation": "shared",
        },
    });
    let script = "cat /proc/self/status /proc/self/oom_score_adj /proc/self/limits; exec sleep 100000";
    run(&fixture, &sandbox, &["sh", "-c", script], oci).await;
    let log = log_with(&sandbox, "Max realtime timeout");
    let line = |name: &str| {
        log.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {log}"))
    };
    for (set, value) in
        [("CapInh:", "20"), ("CapPrm:", "20"), ("CapEff:", "20"), ("CapBnd:", "21"), ("CapAmb:", "20")]
    {
        assert!(line(set).ends_with(&format!("00{value}")), "{}", line(set));
    }
    assert!(line("NoNewPrivs:").ends_with('1') && log.lines().any(|line| line == "321"), "{log}");
    assert_eq!(line("Max core file size").split_whitespace().collect::<Vec<_>>()[4..6], ["1", "2"]);
    output(&sandbox, "! touch /x && touch /tmp/x").await;
    assert!(output(&sandbox, "grep ' / / ' /proc/self/mountinfo").await.contains("shared:"));
    let kernel =
        output(&sandbox, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; wc -c </proc/cpuinfo")
            .await;
    assert_eq!(kernel.lines().collect::<Vec<_>>(), ["1", "4096", "0"]);
    output(&sandbox, "! echo 0 2>/dev/null >/proc/sys/net/ipv4/ip_forward").await;
    assert_eq!(output(&sandbox, "stat -c '%a %u %g %t %T' /dev/nothing").await, "640 33 4 1 3");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn users_of_a_container_may_be_others_outside() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let mapping = json!([{ "containerID": 0, "hostID": 0, "size": 100 }]);
    let oci = json!({ "linux": {
        "namespaces": [{ "type": "user" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            { "type": "network" }, { "type": "cgroup" }],
        "uidMappings": mapping, "gidMappings": mapping,
    } });
    run(&fixture, &sandbox, &["sh", "-c", "cat /proc/self/uid_map; exec sleep 100000"], oci).await;
    let map = log_with(&sandbox, "100");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "100"]);
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_privileged_container_may_do_all_to_its_guest() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    sandbox.make_disk("c", 1).await.unwrap();
    let container = ContainerSpec { privileged: true, ..fixture.container("c", &["sh", "-c",
        "grep CapEff /proc/self/status; mount -t tmpfs t /tmp && echo mounted; mkdir /sys/fs/cgroup/x && echo group; \
         head -c 1 /proc/kcore | wc -c; mknod /dev/null2 c 1 3 && echo made"]) };
    sandbox.run(&container).await.unwrap();
    assert_eq!(sandbox.wait("c").await.unwrap().status, 0);
    let log = sandbox.logs("c", &query()).unwrap();
    assert!(log.contains("000001ffffffffff") && log.contains("group") && log.contains("made"), "{log}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn directories_that_an_image_lacks_are_made() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    sandbox.make_disk("c", 1).await.unwrap();
    let container = ContainerSpec {
        directory: "/new/place".into(),
        volumes: vec!["/data".into(), "/var/www".into()],
        mounts: Vec::new(),
        ..fixture.container("c", &["sh", "-c", "pwd; stat -c '%a %u' /data /new; ls -d /var/www"])
    };
    sandbox.run(&container).await.unwrap();
    assert_eq!(sandbox.wait("c").await.unwrap().status, 0);
    assert_eq!(sandbox.logs("c", &query()).unwrap(), "/new/place\n755 0\n755 0\n/var/www\n");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}
