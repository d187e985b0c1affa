//! What a container's processes try on their guest's agent, kernel and devices, and what a guest's kernel tries on its machine.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloud_tests::sandboxes::{busybox_rootfs_with, shell};
use sandbox::{ContainerSpec, ContainerUser, Exec, Sandbox};
use tokio::time::timeout;

use crate::fixture::{self, Fixture, output};

const LONG: [&str; 2] = ["sleep", "100000"];
/// The error of what is not permitted, and of a connection that fails for whatever cause.
const NOT_PERMITTED: i32 = 1;
const CONNECTION_FAILED: i32 = 128;
/// How long a hostile guest drives its devices, and how long a neighbour may take to run a program meanwhile.
const HOSTILE_FOR: Duration = Duration::from_secs(120);
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(30);
/// How long a host may wait for a guest whose agent hangs or lies: for its boot, and each answer.
const LIAR_PATIENCE: Duration = Duration::from_secs(400);
/// Deeper than a recursion on a thread's stack can follow.
const DEEP: usize = 20_000;
/// Bytes that a shim's diagnostics may take.
const DIAGNOSTICS_MAX: u64 = (1 << 20) + (8 << 10);

/// The sources of this folder's programs.
fn source(name: &str) -> PathBuf {
    cloud_tests::top().join("tests/guest/programs").join(name)
}

/// Programs and nodes that an attacker has in its image.
fn hostile_image(folder: &Path) -> PathBuf {
    let flags = "-O1 -ffreestanding -fno-pic -fno-stack-protector -nostdlib -static";
    let vsock = source("vsock.c");
    let vsock = vsock.display();
    busybox_rootfs_with(
        folder,
        &format!(
            "gcc -m32 {flags} -o root/bin/vsock32 {vsock}; gcc -m64 {flags} -o root/bin/vsock64 {vsock}
             mkdir root/nodes; mknod root/nodes/disk b 254 0; mknod root/nodes/serial c 4 64
             mknod root/nodes/memory c 1 1; mknod root/nodes/null c 1 3; chmod 666 root/nodes/*"
        ),
    )
}

async fn start(fixture: &Fixture) -> Sandbox {
    let sandbox = fixture.start("c", 1.0).await;
    run(fixture, &sandbox, false, &LONG).await;
    sandbox
}

/// Runs a container of the attacker's image.
async fn run(fixture: &Fixture, sandbox: &Sandbox, privileged: bool, words: &[&str]) {
    sandbox.make_disk("c", 1).await.unwrap();
    let image = hostile_image(fixture.path());
    let container = ContainerSpec { image, privileged, ..fixture.container("c", words) };
    sandbox.run(&container).await.unwrap();
}

/// The status of a program that a user runs in the container.
async fn status(sandbox: &Sandbox, user: &str, words: &[&str]) -> (i32, String) {
    let user = ContainerUser { user: user.into(), group: String::new() };
    let result = sandbox.exec(Exec { user, ..fixture::exec("c", words) }).await.unwrap();
    (result.status, result.output)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn nobody_in_a_guest_reaches_its_agent() {
    let fixture = Fixture::new();
    let sandbox = start(&fixture).await;
    for user in ["1000", "0"] {
        for program in ["vsock64", "vsock32"] {
            // The loopback, the host and the guest itself.
            for peer in ["1", "2", "3"] {
                let (refused, _) = status(&sandbox, user, &[program, peer]).await;
                assert_eq!(refused, NOT_PERMITTED, "{program} of user {user} to {peer}");
            }
        }
        let (refused, _) = status(&sandbox, user, &["vsock64", "1", "with more bits"]).await;
        assert_eq!(refused, NOT_PERMITTED, "a family with more bits than the kernel looks at");
    }
    sandbox.delete().await.unwrap();

    // Who may make such sockets is not answered either.
    let sandbox = fixture.start("c", 1.0).await;
    let script =
        "for program in vsock64 vsock32; do for peer in 1 2 3; do $program $peer; echo $?; done; done";
    run(&fixture, &sandbox, true, &["sh", "-c", script]).await;
    sandbox.wait("c").await.unwrap();
    let answers = sandbox.logs("c", &crate::query()).unwrap();
    let answers: Vec<i32> = answers.lines().map(|line| line.parse().unwrap()).collect();
    assert!(answers.len() == 6 && answers.iter().all(|answer| *answer > CONNECTION_FAILED), "{answers:?}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn every_process_of_a_container_is_filtered() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    let script = "grep -e Seccomp: -e CapEff /proc/self/status; unshare -U true; exec sleep 100000";
    fixture.run(&sandbox, "c", &["sh", "-c", script]).await;
    let query = crate::query();
    let first = cloud_tests::eventually(30, "the first process tells", || {
        let log = sandbox.logs("c", &query).unwrap();
        if log.contains("unshare") { Ok(log) } else { Err(log) }
    });
    let own = |text: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned();
        u64::from_str_radix(&value, 16).unwrap()
    };
    for (what, text) in [
        ("the first", first),
        (
            "a further one",
            status(&sandbox, "0", &["sh", "-c", "cat /proc/self/status; unshare -U true 2>&1"]).await.1,
        ),
    ] {
        assert!(text.contains("Seccomp:\t2"), "{what}: {text}");
        assert!(text.contains("Operation not permitted"), "{what}: {text}");
        assert_eq!(own(&text) & 1 << 21, 0, "{what} has CAP_SYS_ADMIN: {text}");
    }
    for refused in ["mount -t tmpfs t /tmp", "unshare -n true", "swapon /bin/sh", "dmesg"] {
        let (status, text) = status(&sandbox, "0", &["sh", "-c", refused]).await;
        assert_ne!(status, 0, "{refused}: {text}");
    }
    // What programs of today need is there, for users too.
    for script in [
        "ping -c 1 127.0.0.1",
        "(sleep 0 & wait)",
        "setsid true",
        "dd if=/dev/urandom of=/dev/null bs=1 count=1",
    ] {
        output(&sandbox, "c", script).await;
    }
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_fork_bomb_ends_at_its_containers_bound() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &LONG).await;
    let bomb = "i=0; while [ $i -lt 1200 ]; do sleep 1000 & i=$((i+1)); done 2>&1 | head -n 1";
    let (_, said) = status(&sandbox, "0", &["sh", "-c", bomb]).await;
    assert!(said.contains("fork"), "{said}");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_device_node_that_an_image_or_a_copy_brings_opens_nothing() {
    let fixture = Fixture::new();
    let sandbox = start(&fixture).await;
    shell("tar -C root/nodes -cf nodes.tar .", fixture.path());
    let archive = std::fs::File::open(fixture.path().join("nodes.tar")).unwrap();
    // /dev is a file system without `nodev`.
    sandbox.unpack("c", "/dev", &archive).await.unwrap();
    for folder in ["/nodes", "/dev"] {
        for (node, kind) in [
            ("disk", "block special file"),
            ("serial", "character special file"),
            ("memory", "character special file"),
        ] {
            let seen = output(&sandbox, "c", &format!("stat -c %F {folder}/{node}")).await;
            assert_eq!(seen, kind, "{folder}/{node} is kept");
            for user in ["0", "1000"] {
                let script = format!("head -c 1 {folder}/{node} || echo x >{folder}/{node}");
                let (status, text) = status(&sandbox, user, &["sh", "-c", &script]).await;
                assert!(status != 0 && !text.contains("I/O error"), "{folder}/{node} of user {user}: {text}");
            }
        }
    }
    output(&sandbox, "c", "echo x >/dev/null; head -c 1 /dev/zero >/dev/null; test -e /dev/ptmx").await;
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

/// What is tried on a sandbox whose agent is an attacker's: each part may fail, and none may wait without end.
async fn use_it(fixture: &Fixture, sandbox: &Sandbox) -> String {
    let run = async {
        sandbox.start(&fixture.spec(1.0)).await?;
        sandbox.make_disk("c", 1).await?;
        sandbox.run(&fixture.container("c", &LONG)).await?;
        sandbox
            .exec(Exec { time_limit: Some(Duration::from_secs(5)), ..fixture::exec("c", &["true"]) })
            .await?;
        sandbox.stats("c").await?;
        sandbox.pack("c", "/", 1 << 20).await.map(drop)
    };
    let ended: sandbox::Result<()> = run.await;
    ended.map_or_else(|e| e.to_string(), |()| "all was done, as it says".into())
}

/// A guest with this agent, from its start to its end.
async fn lie(mode: &str) -> Fixture {
    let mut fixture = Fixture::new();
    let liar = source("liar.c");
    fixture.guest_of(&format!("gcc -O1 -static -pthread -DMODE={mode} -o init {}", liar.display()));
    let sandbox = fixture.host().sandbox("c");
    sandbox.create().unwrap();
    let began = Instant::now();
    let end = timeout(LIAR_PATIENCE, use_it(&fixture, &sandbox)).await;
    let end = end.unwrap_or_else(|_| panic!("{mode} keeps the host waiting"));
    println!("{mode}: after {:?} {end:?}", began.elapsed());
    assert!(end.len() < 2000, "{mode}: {} bytes of an error", end.len());
    let log = std::fs::metadata(sandbox.path().join("shim.log")).map_or(0, |log| log.len());
    assert!(log <= DIAGNOSTICS_MAX, "{mode}: {log} bytes of diagnostics");
    let deleted = Instant::now();
    sandbox.delete().await.unwrap();
    assert!(deleted.elapsed() < NEIGHBOUR_PATIENCE, "{mode}: {:?} to delete it", deleted.elapsed());
    fixture
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn agents_that_hang_or_lie_cost_their_neighbour_nothing() {
    let quiet = Fixture::new();
    let neighbour = quiet.start("n", 1.0).await;
    quiet.run(&neighbour, "c", &LONG).await;
    let over = AtomicBool::new(false);
    let watched = async {
        let mut slowest = Duration::ZERO;
        while !over.load(Ordering::SeqCst) {
            let asked = Instant::now();
            let here = neighbour.exec(fixture::exec("c", &["echo", "here"])).await.unwrap();
            assert_eq!(here.output, "here\n");
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let attacks = async {
        let guests = tokio::join!(lie("SILENT"), lie("NOISE"), lie("GIANT"), lie("YES"));
        over.store(true, Ordering::SeqCst);
        <[Fixture; 4]>::from(guests)
    };
    let (guests, slowest) = tokio::join!(attacks, watched);
    assert!(slowest < NEIGHBOUR_PATIENCE, "the neighbour waited for {slowest:?}");
    neighbour.delete().await.unwrap();
    guests.iter().chain([&quiet]).for_each(Fixture::assert_clean);
}

/// Builds the guest whose kernel is an attacker's.
fn hostile_kernel(folder: &Path) -> Vec<u8> {
    let flags = "-m32 -O1 -ffreestanding -fno-pic -fno-toplevel-reorder -fno-stack-protector \
         -fno-asynchronous-unwind-tables -mno-sse -nostdlib -static";
    let layout = "-Wl,--build-id=none,-N,-Ttext=0x1000000,--oformat=binary";
    shell(&format!("gcc {flags} {layout} -o hostile {}", source("hostile.c").display()), folder);
    std::fs::read(folder.join("hostile")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn a_hostile_kernel_costs_its_neighbour_nothing() {
    let quiet = Fixture::new();
    let neighbour = quiet.start("n", 1.0).await;
    quiet.run(&neighbour, "c", &LONG).await;
    let mut fixture = Fixture::new();
    let kernel = hostile_kernel(fixture.path());
    fixture.kernel(&kernel);
    let host = fixture.host();
    let spec = fixture.spec(1.0);
    let began = Instant::now();
    let attack = tokio::spawn(async move {
        let mut ends = Vec::new();
        while began.elapsed() < HOSTILE_FOR {
            let sandbox = host.sandbox("c");
            sandbox.create().unwrap();
            ends.push(sandbox.start(&spec).await.unwrap_err().to_string());
            let log = std::fs::metadata(sandbox.path().join("shim.log")).unwrap().len();
            assert!(log <= DIAGNOSTICS_MAX, "{log} bytes of diagnostics");
            let deleted = Instant::now();
            sandbox.delete().await.unwrap();
            assert!(deleted.elapsed() < NEIGHBOUR_PATIENCE, "{:?} to delete it", deleted.elapsed());
        }
        ends
    });
    let mut slowest = Duration::ZERO;
    let mut served = 0;
    while !attack.is_finished() {
        let asked = Instant::now();
        assert_eq!(neighbour.exec(fixture::exec("c", &["echo", "here"])).await.unwrap().output, "here\n");
        slowest = slowest.max(asked.elapsed());
        served += 1;
    }
    let ends = attack.await.unwrap();
    println!(
        "{served} programs of the neighbour, the slowest in {slowest:?}; the attacks ended with {ends:?}"
    );
    assert!(slowest < NEIGHBOUR_PATIENCE, "the neighbour waited for {slowest:?}");
    assert!(
        ends.iter().all(|end| end.contains("did not answer") || end.contains("triple fault")),
        "{ends:?}"
    );
    neighbour.delete().await.unwrap();
    quiet.assert_clean();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn what_a_shim_leaves_in_its_folder_leads_nowhere() {
    let fixture = Fixture::new();
    let sandbox = fixture.start("c", 1.0).await;
    fixture.run(&sandbox, "c", &["echo", "kept"]).await;
    sandbox.wait("c").await.unwrap();
    sandbox.kill().await.unwrap();
    let (run, host) = (sandbox.path().join("run"), fixture.path().join("host"));
    std::fs::write(&host, "untouched").unwrap();
    // As a shim that was somebody else's could: links where the next one writes with all rights, and a tree that is too deep.
    for name in ["state.json.new.1", "template", "template.new", "console.log"] {
        let _ = std::fs::remove_file(run.join(name));
        symlink(&host, run.join(name)).unwrap();
    }
    for _ in 0..DEEP {
        let [around, deep] = ["around", "deep"].map(|name| run.join(name));
        std::fs::create_dir(&around).unwrap();
        let _ = std::fs::rename(&deep, around.join("a"));
        std::fs::rename(&around, &deep).unwrap();
    }
    sandbox.start(&fixture.spec_of_group("left")).await.unwrap();
    assert_eq!(std::fs::read_to_string(&host).unwrap(), "untouched");
    assert_eq!(sandbox.logs("c", &crate::query()).unwrap(), "kept\n", "its log is still there");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}
