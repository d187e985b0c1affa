//! Several containers in one sandbox.

use cloud_tests::sandboxes::shell;
use sandbox::{
    ContainerSpec, LogQuery, RateLimit, Sandbox, SandboxSpec, SandboxStatus, SharedNamespace, VolumeDisk,
    VolumeMount,
};

use crate::fixture::{Fixture, output};
use crate::query;

const LONG: [&str; 2] = ["sleep", "100000"];

async fn start(fixture: &Fixture, spec: &SandboxSpec) -> Sandbox {
    let sandbox = fixture.host().sandbox("pod");
    sandbox.create().unwrap();
    sandbox.start(spec).await.unwrap();
    sandbox
}

fn pod(fixture: &Fixture, containers: u8) -> SandboxSpec {
    SandboxSpec { containers, ends_with: None, memory_mib: 256, ..fixture.spec(1.0) }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn containers_of_a_sandbox_have_files_of_their_own_and_one_network() {
    let fixture = Fixture::new();
    let sandbox = start(&fixture, &pod(&fixture, 2)).await;
    let server = ["sh", "-c", "echo hello >/index.html; exec httpd -f -p 127.0.0.1:8000 -h /"];
    fixture.run(&sandbox, "a", &server).await;
    fixture.run(&sandbox, "b", &["sh", "-c", "echo b; exec sleep 100000"]).await;
    let fetched = "until wget -q -O - http://127.0.0.1:8000/index.html; do usleep 50000; done";
    assert_eq!(output(&sandbox, "b", fetched).await, "hello");
    output(&sandbox, "b", "test ! -e /index.html").await;
    assert!(!output(&sandbox, "b", "ps").await.contains("httpd"), "nor their processes");
    cloud_tests::eventually(30, "b has written", || match sandbox.logs("b", &query()).unwrap() {
        log if log == "b\n" => Ok(()),
        log => Err(log),
    });
    assert_eq!(sandbox.logs("a", &query()).unwrap(), "");

    let again = sandbox.run(&fixture.container("b", &LONG)).await.unwrap_err();
    assert_eq!(again.to_string(), "the sandbox has a container b already");
    output(&sandbox, "b", "true").await;

    sandbox.make_disk("c", 1).await.unwrap();
    let third = sandbox.run(&fixture.container("c", &LONG)).await.unwrap_err();
    assert!(third.to_string().contains("none is free for a disk"), "{third}");
    sandbox.remove_container("c").await.unwrap();

    // The place of one that is gone is another's, and nothing of the first is in it.
    output(&sandbox, "a", "echo secret >/secret; sync").await;
    sandbox.remove_container("a").await.unwrap();
    let SandboxStatus::Live(state) = sandbox.status().await else { panic!("the sandbox goes on") };
    assert_eq!(state.containers.keys().collect::<Vec<_>>(), ["b"]);
    fixture.run(&sandbox, "d", &["sh", "-c", "echo d; exit 4"]).await;
    assert_eq!(sandbox.wait("d").await.unwrap().status, 4);
    assert_eq!(sandbox.logs("d", &query()).unwrap(), "d\n");
    sandbox.remove_container("d").await.unwrap();
    assert_eq!(sandbox.logs("d", &LogQuery { stdout: true, ..query() }).unwrap(), "");
    fixture.run(&sandbox, "e", &LONG).await;
    output(&sandbox, "e", "test ! -e /secret && echo x >/x && sync").await;
    assert_eq!(output(&sandbox, "b", "hostname").await, "guest", "the other did not notice");
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn containers_share_the_processes_that_they_ask_to_share() {
    let fixture = Fixture::new();
    let sandbox = start(&fixture, &pod(&fixture, 3)).await;
    let shares = vec![SharedNamespace::Pid, SharedNamespace::Ipc];
    for id in ["a", "b"] {
        sandbox.make_disk(id, 1).await.unwrap();
        let program = ["sh", "-c", &format!("sleep 100000; true {id}")];
        let container = ContainerSpec { shares: shares.clone(), ..fixture.container(id, &program) };
        sandbox.run(&container).await.unwrap();
    }
    fixture.run(&sandbox, "c", &LONG).await;
    let seen = output(&sandbox, "b", "ps -o args").await;
    assert!(seen.contains("true a") && seen.contains("true b"), "{seen}");
    let alone = output(&sandbox, "c", "ps -o args").await;
    assert!(!alone.contains("true a"), "{alone}");
    let namespace =
        async |id: &str, kind: &str| output(&sandbox, id, &format!("readlink /proc/self/ns/{kind}")).await;
    for kind in ["pid", "ipc"] {
        assert_eq!(namespace("a", kind).await, namespace("b", kind).await);
        assert_ne!(namespace("a", kind).await, namespace("c", kind).await);
    }
    // One that ends takes none of the others with it.
    output(&sandbox, "b", "kill -9 $(ps -o pid,args | sed -n 's/^ *\\([0-9]*\\) sh -c .*true a$/\\1/p')")
        .await;
    let exit = sandbox.wait("a").await.unwrap();
    assert_eq!((exit.status, exit.oom_killed), (137, false));
    assert!(output(&sandbox, "b", "ps -o args").await.contains("true b"));
    sandbox.delete().await.unwrap();
    fixture.assert_clean();
}

/// An empty disk of ext4.
fn volume(fixture: &Fixture, name: &str) -> VolumeDisk {
    let path = fixture.path().join(name);
    shell(&format!("truncate -s 16M {name} && mkfs.ext4 -q {name}"), fixture.path());
    VolumeDisk { name: name.to_owned(), path, limit: RateLimit::default() }
}

/// They have more devices than their machine has interrupt lines, and more disks than the alphabet has letters.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM; tests/run takes it into the lab"]
async fn as_many_containers_and_volumes_as_a_sandbox_can_have() {
    let fixture = Fixture::new();
    let refused = pod(&fixture, 17).validate().unwrap_err();
    assert_eq!(refused.to_string(), "17 containers are more than the 16 that a sandbox can have");
    let numbers = 0..16;
    let volumes: Vec<VolumeDisk> =
        numbers.clone().map(|number| volume(&fixture, &format!("v{number}"))).collect();
    let too_many = [&volumes[..], &volumes[..1]].concat();
    let refused = SandboxSpec { volumes: too_many, ..pod(&fixture, 16) }.validate().unwrap_err();
    assert_eq!(refused.to_string(), "17 volumes are more than the 16 that a sandbox can have");

    let template_group = Some("many".to_owned());
    let spec = SandboxSpec { volumes, template_group, memory_mib: 512, ..pod(&fixture, 16) };
    // The first boots and makes a template, from which the second goes on.
    for _ in ["first", "second"] {
        let sandbox = start(&fixture, &spec).await;
        for number in numbers.clone() {
            let id = format!("c{number}");
            let mount = VolumeMount { volume: format!("v{number}"), destination: "/v".into() };
            sandbox.make_disk(&id, 1).await.unwrap();
            let container = ContainerSpec { mounts: vec![mount], ..fixture.container(&id, &LONG) };
            sandbox.run(&container).await.unwrap();
            output(&sandbox, &id, &format!("echo {id} | tee -a /v/on-volume >/on-disk; sync")).await;
        }
        for number in numbers.clone() {
            let id = format!("c{number}");
            let read = output(&sandbox, &id, "cat /on-disk; sort -u /v/on-volume").await;
            assert_eq!(read, format!("{id}\n{id}"));
        }
        sandbox.delete().await.unwrap();
    }
    fixture.assert_clean();
}
