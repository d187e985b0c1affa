//! Sandboxes and their guests, without a cloud. Runs where KVM works: `tests/lab/runner` takes it into the lab.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod attacks;
mod confinement;
mod containers;
mod disks;
mod fixture;
mod growth;
mod network;
mod oci;
mod plugging;
mod slots;
mod templates;
mod terminals;
mod trees;

use std::sync::Arc;
use std::time::Duration;

use cloud_tests::eventually;
use cloud_tests::sandboxes::arguments;
use fixture::Fixture;
use sandbox::{ContainerUser, Error, LogQuery, SandboxStatus, Tail};

const LONG: [&str; 2] = ["sleep", "100000"];

fn query() -> LogQuery {
    LogQuery { stdout: true, stderr: true, timestamps: false, tail: Tail::All, since: None }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn output_and_exit_status_of_a_container() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    fixture.run(&sandbox, "c", &command).await;
    assert_eq!(sandbox.wait("c").await.unwrap().status, 3);
    let logs = sandbox.logs("c", &query()).unwrap();
    assert!(logs.contains("out\n") && logs.contains("err\n"), "{logs}");
    assert_eq!(sandbox.logs("c", &LogQuery { stdout: false, ..query() }).unwrap(), "err\n");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_hundred_processes_at_once() {
    let fixture = Fixture::new();
    let sandbox = Arc::new(fixture.start("c", 2.0).await);
    fixture.run(&sandbox, "c", &LONG).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let sandbox = Arc::clone(&sandbox);
        tasks.spawn(async move {
            let script = format!("echo number {number}; exit {}", number % 7);
            let result = sandbox.exec(fixture::exec("c", &["sh", "-c", &script])).await.unwrap();
            assert_eq!((result.output, result.status), (format!("number {number}\n"), number % 7));
        });
    }
    let all = tokio::time::timeout(Duration::from_secs(400), tasks.join_all()).await;
    assert_eq!(all.expect("the processes deadlock").len(), 100);
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_guest_has_the_cpus_that_were_asked_for() {
    let fixture = Fixture::new();
    for (cpus, seen) in [(0.5, "1\n"), (1.5, "2\n"), (8.0, "8\n")] {
        let sandbox = fixture.start("c", cpus).await;
        fixture.run(&sandbox, "c", &LONG).await;
        let count = sandbox.exec(fixture::exec("c", &["nproc"])).await.unwrap();
        assert_eq!(count.output, seen);
        sandbox.delete().await.unwrap();
    }
    let refused = fixture.spec(33.0).validate().unwrap_err();
    assert!(refused.to_string().contains("32"), "{refused}");
}

/// Resident memory of a sandbox's shim, its guest's included, in MiB.
fn resident_mib(sandbox: &sandbox::Sandbox) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.shim_pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Waits until the shim's resident memory is as it should be.
async fn wait_for_resident(sandbox: &sandbox::Sandbox, what: &str, good: impl Fn(u64) -> bool) {
    let mut now = 0;
    for _ in 0..600 {
        now = resident_mib(sandbox);
        if good(now) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {what}: {now} MiB");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn memory_that_a_guest_frees_goes_back_to_the_host() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let before = resident_mib(&sandbox);
    let fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null";
    assert_eq!(sandbox.exec(fixture::exec("c", &["sh", "-c", fill])).await.unwrap().status, 0);
    wait_for_resident(&sandbox, "the guest has taken memory", |now| now > before + 50).await;
    sandbox.exec(fixture::exec("c", &["rm", "/dev/shm/x"])).await.unwrap();
    wait_for_resident(&sandbox, "the guest gives memory back", |now| now < before + 20).await;
    assert_eq!(sandbox.exec(fixture::exec("c", &["sh", "-c", fill])).await.unwrap().status, 0);
    sandbox.delete().await.unwrap();
}

/// A driver of what is not there costs each start the time that it waits for an answer.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_guest_looks_for_no_devices_that_its_machine_lacks() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let buses = sandbox.exec(fixture::exec("c", &["ls", "/sys/bus"])).await.unwrap().output;
    assert!(buses.contains("virtio"), "{buses}");
    assert!(!buses.lines().any(|bus| ["serio", "pci", "acpi", "usb"].contains(&bus)), "{buses}");
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn thirty_two_cpus() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 32.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    assert_eq!(sandbox.exec(fixture::exec("c", &["nproc"])).await.unwrap().output, "32\n");
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_process_has_its_user_directory_and_limits() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let mut container = fixture.container("c", &LONG);
    container.user = ContainerUser { user: "www".into(), group: "log".into() };
    container.directory = "/var/www".into();
    sandbox.make_disk("c", 1).await.unwrap();
    sandbox.run(&container).await.unwrap();
    let user = ContainerUser { user: "www".into(), group: "log".into() };
    let script = "id -u; id -g; pwd; ulimit -n; grep CapEff /proc/self/status; wc -c </proc/interrupts; ls /proc/1/ns | wc -l; \
        cat /sys/fs/cgroup/memory.max; ls -d /dev/vda 2>&1";
    let process =
        sandbox::process(&arguments(&["sh", "-c", script]), &[], "/var/www".as_ref(), false).unwrap();
    let result =
        sandbox.exec(sandbox::Exec { container: "c".into(), process, user, time_limit: None }).await.unwrap();
    let lines: Vec<&str> = result.output.lines().collect();
    assert_eq!(lines[..4], ["33", "4", "/var/www", "1048576"], "{}", result.output);
    assert_eq!(lines[4].split_whitespace().last(), Some("0000000000000000"), "a user has no capabilities");
    assert_eq!(lines[5].trim(), "0", "/proc/interrupts is masked");
    assert_eq!(lines[7], (128_u64 << 20).to_string());
    assert!(lines[8].contains("No such file"), "the sandbox's disks are not seen: {}", lines[8]);
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_container_that_takes_too_much_memory_is_killed() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let hog = ["sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"];
    fixture.run(&sandbox, "c", &hog).await;
    let exit = sandbox.wait("c").await.unwrap();
    assert_eq!((exit.status, exit.oom_killed), (137, true));
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_program_that_is_missing_is_named() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    sandbox.make_disk("c", 1).await.unwrap();
    let error = sandbox.run(&fixture.container("c", &["no-such-program"])).await.unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let SandboxStatus::Live(state) = sandbox.status().await else { panic!("the sandbox goes on") };
    assert!(state.containers.is_empty());
    sandbox.run(&fixture.container("c", &LONG)).await.unwrap();
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_guest_that_panics_says_so() {
    let mut fixture = Fixture::new();
    fixture.guest_whose_init_ends();
    let sandbox = fixture.host().sandbox("c");
    sandbox.create().unwrap();
    let error = sandbox.start(&fixture.spec(1.0)).await.unwrap_err();
    assert!(matches!(&error, Error::Start(reason) if reason.contains("Attempted to kill init")), "{error}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_processor_that_shuts_down_is_told() {
    let mut fixture = Fixture::new();
    fixture.kernel_that_faults();
    let sandbox = fixture.host().sandbox("c");
    sandbox.create().unwrap();
    let error = sandbox.start(&fixture.spec(1.0)).await.unwrap_err();
    assert!(error.to_string().contains("triple fault"), "{error}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_paused_guest_stands_still_and_ends_in_order() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 2.0).await;
    fixture.run(&sandbox, "c", &["sh", "-c", "while :; do echo tick; sleep 0.05; done"]).await;
    let ticks = || sandbox.logs("c", &query()).unwrap().lines().count();
    sandbox.pause().await.unwrap();
    let SandboxStatus::Live(state) = sandbox.status().await else { panic!("it does not live") };
    assert_eq!(state.phase, sandbox::Phase::Paused);
    let refused = sandbox.exec(fixture::exec("c", &["true"])).await.unwrap_err();
    assert!(refused.to_string().contains("paused"), "{refused}");
    // What it wrote before may still be on its way.
    let before = eventually(10, "it stands still", || {
        let before = ticks();
        std::thread::sleep(Duration::from_millis(300));
        if ticks() == before { Ok(before) } else { Err(before.to_string()) }
    });
    sandbox.resume().await.unwrap();
    assert_eq!(sandbox.exec(fixture::exec("c", &["sleep", "0.2"])).await.unwrap().status, 0);
    assert!(ticks() > before, "it goes on");
    sandbox.pause().await.unwrap();
    sandbox.shut_down().await.unwrap();
    let SandboxStatus::Over(state) = sandbox.status().await else { panic!("it is not over") };
    assert_eq!(state.phase, sandbox::Phase::Ended);
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn what_is_no_kernel_is_refused_by_name() {
    let mut fixture = Fixture::new();
    fixture.kernel_of_zeros();
    let sandbox = fixture.host().sandbox("c");
    sandbox.create().unwrap();
    let error = sandbox.start(&fixture.spec(1.0)).await.unwrap_err();
    assert!(error.to_string().contains("is not a kernel that can be booted"), "{error}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_shim_that_is_killed_ends_its_containers() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let pid = sandbox.shim_pid().unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    sandbox.kill().await.unwrap();
    let SandboxStatus::Over(state) = sandbox.status().await else { panic!("it is not over") };
    assert_eq!(state.containers["c"].as_ref().unwrap().status, 137);
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_log_is_rotated_and_kept() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let command = ["sh", "-c", "i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done"];
    fixture.run(&sandbox, "c", &command).await;
    assert_eq!(sandbox.wait("c").await.unwrap().status, 0);
    let logs = sandbox.logs("c", &query()).unwrap();
    assert!(logs.ends_with("line 39999\n"), "the end of the log is kept");
    let files = std::fs::read_dir(sandbox.path().join("run")).unwrap().map(Result::unwrap);
    let sizes: Vec<u64> = files
        .filter(|file| file.file_name().to_string_lossy().starts_with("container-c.log"))
        .map(|file| file.metadata().unwrap().len())
        .collect();
    assert!(sizes.len() == 3 && sizes.iter().all(|size| *size <= fixture::LOG_FILE_BYTES), "{sizes:?}");
    sandbox.delete().await.unwrap();
}
